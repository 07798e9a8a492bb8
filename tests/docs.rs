//! What the guides say to write into a configuration can be written there.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::Path};

use self::program::{ipveil, text};

mod program;

/// The TOML in a guide, each block by the line on which it begins.
fn blocks(guide: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in guide.lines().enumerate() {
        match (&mut open, line) {
            (None, "```toml") => open = Some((number + 1, String::new())),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some((_, block)), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

#[test]
fn every_configuration_in_the_guides_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for guide in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap() {
        let guide = guide.unwrap().path();
        for (line, block) in blocks(&fs::read_to_string(&guide).unwrap()) {
            // What a guide leaves out because it is always there.
            let mut text = block.replace("\"…\"", "\"192.0.2.0/24\"");
            if !text.contains("[[listener]]") {
                text.push_str("[[listener]]\naddress = \"127.0.0.1:0\"\n");
            }
            if !text.contains("[upstream") {
                text.push_str("[upstream.app]\nservers = [\"http://127.0.0.1:1\"]\n");
            }
            let path = folder.path().join("ipveil.toml");
            fs::write(&path, text).unwrap();
            let check = ipveil().args(["proxy", "--check", "--config"]).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&check.stderr);
            assert!(check.status.success(), "{}:{line}: {said}", guide.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn the_template_names_every_key_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipveil.toml");
    assert!(ipveil().arg("init").arg(&path).status().unwrap().success());
    assert!(!ipveil().arg("init").arg(&path).output().unwrap().status.success(), "it must not be written over");

    // With everything that is commented out taken in, where it stands, there is no unknown key.
    let template = fs::read_to_string(&path).unwrap();
    let example = |line: &str| {
        let line = line.strip_prefix("# ").unwrap_or(line);
        line.starts_with('[')
            || line
                .split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    };
    let lines: Vec<_> = template.lines().collect();
    let mut unknown = Vec::new();
    let mut number = 0;
    while number < lines.len() {
        let begins = lines[number].starts_with("# ") && example(lines[number]);
        // A table and what is in it belong together.
        let is_table = begins && lines[number].starts_with("# [");
        let rest = lines[number..].iter().take_while(|line| line.starts_with("# ")).count();
        let count = if is_table { rest } else { 1 };
        if begins {
            let shown = |(place, line): (usize, &&str)| {
                let is_in = (number..number + count).contains(&place);
                line.strip_prefix("# ").filter(|_| is_in).unwrap_or(line).to_owned()
            };
            let all: Vec<_> = lines.iter().enumerate().map(shown).collect();
            fs::write(&path, all.join("\n")).unwrap();
            let check = ipveil().args(["proxy", "--check", "--config"]).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&check.stderr).into_owned();
            if said.contains("unknown key") {
                unknown.push(said);
            }
        }
        number += count;
    }
    assert!(unknown.is_empty(), "{unknown:?}");

    // What the program says could stand in place of a key that is none is in the template.
    for table in [
        "",
        "client",
        "privacy",
        "view.app",
        "keys",
        "keys.redis",
        "upstream.app",
        "upstream.app.health",
        "[route]",
        "access_log",
        "log",
        "admin",
        "geo",
        "deny",
        "allow",
        "rate_limit",
        "bans",
        "limits",
        "deadlines",
        "memory",
        "[listener]",
        "listener.tls",
    ] {
        let listener = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
        let wrong = match table {
            "" => format!("no_key = 1\n{listener}"),
            table => format!("{listener}[{table}]\nno_key = 1\n"),
        };
        fs::write(&path, wrong).unwrap();
        let check = ipveil().args(["proxy", "--check", "--config"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        let keys: Vec<_> = said.split('`').skip(1).step_by(2).collect();
        assert!(said.contains("unknown key") && !keys.is_empty(), "{table}: {said}");
        for key in keys {
            let is_named = template.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{key} = "))
                    || line.starts_with('[') && line.contains(key)
                    || line.contains(&format!("{{ {key} = "))
                    || line.contains(&format!(", {key} = "))
            });
            assert!(is_named, "{table}: {key}");
        }
    }
    let listed = ipveil().args(["init", "-"]).output().unwrap();
    assert_eq!(text(&listed.stdout), template);
}

#[test]
fn completions_and_the_manual_name_every_command() {
    let help = ipveil().arg("--help").output().unwrap();
    let commands: Vec<_> = text(&help.stdout)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split_whitespace().next().filter(|_| !line.starts_with(' ')))
        .filter(|&command| command != "help")
        .collect();
    assert!(commands.contains(&"proxy") && commands.contains(&"scrub"), "{commands:?}");
    let output = |arguments: &[&str]| {
        let output = ipveil().args(arguments).output().unwrap();
        assert!(output.status.success());
        text(&output.stdout).to_owned()
    };
    let manual = output(&["man"]);
    assert!(!manual.contains("\\-proxy(1)"), "there is no such page");
    for shell in ["bash", "zsh", "fish"] {
        let completions = output(&["completions", shell]);
        for command in &commands {
            assert!(completions.contains(command), "{shell}: {command}");
            assert!(manual.contains(&format!("IPVEIL {}", command.to_uppercase())), "{command}");
        }
    }
}
