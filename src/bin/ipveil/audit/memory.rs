//! The memory of a process that runs.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use anyhow::{Context as _, bail};

/// A part of it that can be read and could have been written to, and what it is for: `[heap]`, `[stack]`, `anonymous`, or a file.
pub(crate) struct Region {
    pub(crate) name: Arc<str>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Of another process, or of a thread of it: where a thread's stack is, nobody says.
pub(crate) struct Memory {
    file: File,
    pub(crate) regions: Vec<Region>,
}

impl Memory {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{process}/maps");
        let refused = || {
            format!("the memory of process {process} can't be read (expected to be root, or to have CAP_SYS_PTRACE)")
        };
        let maps = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("process {process} does not run"),
            maps => maps.with_context(refused)?,
        };
        let file = File::open(format!("/proc/{process}/mem")).with_context(refused)?;
        let regions: Vec<_> = maps.lines().filter_map(region).collect();
        if regions.is_empty() {
            bail!("process {process} has no memory (expected one that runs, and is not the kernel's)");
        }
        Ok(Self { file, regions })
    }

    /// What is in there now.
    pub(crate) fn read(&self, region: &Region) -> impl Read + Send {
        Reader { file: &self.file, at: region.start, end: region.end }
    }
}

struct Reader<'m> {
    file: &'m File,
    at: u64,
    end: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.end - self.at).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// `55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]`, if it can be read.
fn region(line: &str) -> Option<Region> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?.as_bytes();
    let is_files = fields.nth(2)? != "0";
    let name = fields.next().unwrap_or("anonymous");
    // Of a file that is not written to: a program, with the examples in its manual.
    let can_be_read = rights.starts_with(b"r") && (rights.starts_with(b"rw") || !is_files);
    // The kernel's own, which nobody else can write to.
    let is_kernels = name.starts_with("[vvar") || name == "[vsyscall]" || name == "[vdso]";
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let region = Region { name: name.into(), start: hex(start)?, end: hex(end)? };
    (can_be_read && !is_kernels).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_can_be_read_are_told_from_others() {
        let heap = region("55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]").unwrap();
        assert_eq!((&*heap.name, heap.start, heap.end), ("[heap]", 0x55d0_c0a0_0000, 0x55d0_c0a2_1000));
        assert_eq!(&*region("7f00-7f10 rw-p 00000000 00:00 0").unwrap().name, "anonymous");
        assert!(region("7f00-7f10 ---p 00000000 00:00 0").is_none());
        assert!(region("7f00-7f10 r--p 00000000 00:00 0 [vvar]").is_none());
        assert!(region("7f00-7f10 r--p 00000000 08:01 4711 /usr/bin/ipveil").is_none());
        assert_eq!(&*region("7f00-7f10 rw-p 00000000 08:01 4711 /usr/bin/ipveil").unwrap().name, "/usr/bin/ipveil");
        assert!(region("nonsense").is_none());
    }
}
