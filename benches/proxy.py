#!/usr/bin/env python3
"""CPU time per request of ipveil, nginx and HAProxy, in turns: only ratios from one run mean anything.

Usage: benches/proxy.py [--rounds N] [--seconds N] [--only SCENARIO[,...]] [--program [NAME=]PATH]...

Each proxy resolves the client from X-Forwarded-For and anonymizes it: ipveil with a keyed hash in the session's scope, nginx by
cutting the address with a map, HAProxy with ipmask. ipveil and nginx write an access log. The proxies run on the last core; what
asks them, and the server behind them (nginx, 1 KiB), on the first. Needs nginx, haproxy, wrk, h2load and openssl.
"""
import argparse, os, pathlib, re, signal, socket, statistics, subprocess, tempfile, time

HEADERS = ["X-Forwarded-For: 2001:db8:85a3::8a2e:370:7334, 203.0.113.195", "Cookie: theme=dark; sid=0b5cf2d1e6a94f0c",
           "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.6099.109 Safari/537.36"]
TICK = os.sysconf("SC_CLK_TCK")
COMMON = "user root; daemon off; pid {d}/pid; error_log {d}/error.log crit; worker_processes 1; worker_rlimit_nofile 65536;"
TEMP = "".join(f"{kind}_temp_path {{d}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def server(d, port):
    (d / "big").write_bytes(bytes(1 << 20))
    return ["nginx", "-c", write(d / "server.conf", f"""{COMMON} events {{{{ worker_connections 16384; }}}}
http {{{{ {TEMP} access_log off; keepalive_requests 100000000; sendfile on; default_type text/plain; server {{{{
  listen 127.0.0.1:{port} backlog=4096; root {{d}}; location = / {{{{ return 200 "{'x' * 1024}"; }}}} }}}} }}}}""", d)]


def nginx(d, port, up, kind):
    how = {"tls": "ssl", "h2c": "http2"}.get(kind, "")
    tls = f"ssl_certificate {{d}}/../pem; ssl_certificate_key {{d}}/../key; ssl_session_cache off; ssl_session_tickets off;"
    return ["nginx", "-c", write(d / "conf", f"""{COMMON} events {{{{ worker_connections 16384; }}}}
http {{{{ {TEMP} keepalive_requests 100000000; keepalive_timeout 600; {tls if kind == 'tls' else ''}
  set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For; real_ip_recursive on;
  map $remote_addr $cut {{{{ ~^(?P<v4>\\d+\\.\\d+\\.\\d+)\\. $v4.0; ~^(?P<v6>[^:]*:[^:]*:[^:]*): $v6::; default 0.0.0.0; }}}}
  log_format cut '$cut - - [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"';
  access_log {{d}}/access.log cut buffer=64k flush=1s;
  upstream up {{{{ server 127.0.0.1:{up}; keepalive 512; keepalive_requests 100000000; }}}}
  server {{{{ listen 127.0.0.1:{port} backlog=4096 {how}; location / {{{{ proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $cut; }}}} }}}} }}}}""", d)]


def haproxy(d, port, up, kind):
    bind = {"tls": f"ssl crt {d}/../both", "h2c": "proto h2"}.get(kind, "")
    return ["haproxy", "-db", "-f", write(d / "conf", f"""global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  option splice-auto
  http-reuse always
frontend f
  bind 127.0.0.1:{port} backlog 4096 {bind}
  http-request set-src hdr_ip(x-forwarded-for,-1) if {{{{ src 127.0.0.0/8 }}}}
  http-request set-header X-Forwarded-For %[src,ipmask(24,48)]
  default_backend b
backend b
  server s 127.0.0.1:{up} pool-max-conn 1024
""", d)]


def ipveil(program):
    def command(d, port, up, kind):
        tls = f'[listener.tls]\ncertificates = [{{{{ chain = "{d}/../pem", key = "{d}/../key" }}}}]' if kind == "tls" else ""
        return [program, "proxy", "--config", write(d / "toml", f"""threads = 1
[[listener]]
address = "127.0.0.1:{port}"
{tls}
[client]
source = "x-forwarded-for"
trusted = ["loopback"]
[upstream.up]
servers = ["http://127.0.0.1:{up}"]
[access_log]
to = "{{d}}/access.log"
""", d)]
    return command


def write(path, text, d):
    path.write_text(text.format(d=d))
    return str(path)


def descendants(pid):
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu(pid):
    user = system = 0
    for each in descendants(pid):
        try:
            fields = pathlib.Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICK, system / TICK


def wrk(port, seconds, connections, path="/", scheme="http", more=()):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    for header in [*HEADERS, *more]:
        command += ["-H", header]
    out = subprocess.run(["taskset", "-c", "0", *command, f"{scheme}://127.0.0.1:{port}{path}"], capture_output=True, text=True).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    milliseconds = float(p99[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[p99[2]] if p99 else float("nan")
    return int(re.search(r"(\d+) requests in", out)[1]), int(failed[1]) if failed else 0, milliseconds


def h2load(port, seconds):
    command = ["h2load", "-t1", "-c16", "-m16", f"-D{seconds}"]
    for header in HEADERS:
        command += ["-H", header]
    out = subprocess.run(["taskset", "-c", "0", *command, f"http://127.0.0.1:{port}/"], capture_output=True, text=True).stdout
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
    return int(codes[1]), int(codes[3]) + int(codes[4]), float("nan")


def constant_rate(port, seconds, connections=64, rate=8000):
    """So many requests a second, as those ask who don't wait for others: what counts is how long the slowest take."""
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "--h1", "-t1", f"-c{connections}", f"--rps={rate // connections}", f"-D{seconds}", f"--log-file={log.name}"]
        for header in HEADERS:
            command += ["-H", header]
        subprocess.run(["taskset", "-c", "0", *command, f"http://127.0.0.1:{port}/"], capture_output=True)
        lines = [line.split() for line in pathlib.Path(log.name).read_text().splitlines()]
    times = sorted(int(line[2]) for line in lines)
    return len(lines), sum(line[1] != "200" for line in lines), times[len(times) * 99 // 100] / 1000


SCENARIOS = {
    "keep-alive, 64 connections": ("", lambda port, seconds: wrk(port, seconds, 64)),
    "keep-alive, 256 connections": ("", lambda port, seconds: wrk(port, seconds, 256)),
    "8,000 requests a second": ("", constant_rate),
    "new connections": ("", lambda port, seconds: wrk(port, seconds, 64, more=["Connection: close"])),
    "bodies of 1 MiB": ("", lambda port, seconds: wrk(port, seconds, 16, path="/big")),
    "HTTP/2, 16 times 16 streams": ("h2c", h2load),
    "TLS, keep-alive": ("tls", lambda port, seconds: wrk(port, seconds, 64, scheme="https")),
    "TLS, full handshakes": ("tls", lambda port, seconds: wrk(port, seconds, 32, scheme="https", more=["Connection: close"])),
}


def wait_for(port, process):
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"{process.args[0]} does not listen")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--program", action="append", help="default: target/release/ipveil; several are compared")
    arguments = parser.parse_args()
    proxies = {"nginx": nginx, "haproxy": haproxy}
    for program in arguments.program or ["target/release/ipveil"]:
        name, _, path = program.rpartition("=")
        proxies[name or "ipveil"] = ipveil(os.path.abspath(path))
    core = str(os.cpu_count() - 1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-keyout", folder / "key", "-out", folder / "pem"], check=True, capture_output=True)
        (folder / "both").write_text((folder / "pem").read_text() + (folder / "key").read_text())
        up, port = 18000, 18001
        (folder / "server").mkdir()
        backend = subprocess.Popen(["taskset", "-c", "0", *server(folder / "server", up)])
        running = [backend]
        try:
            wait_for(up, backend)
            for name, (kind, load) in SCENARIOS.items():
                if arguments.only and not any(part in name for part in arguments.only.split(",")):
                    continue
                started = {}
                for proxy, command in proxies.items():
                    port += 1
                    place = folder / f"{proxy}-{port}"
                    place.mkdir()
                    process = subprocess.Popen(["taskset", "-c", core, *command(place, port, up, kind)],
                                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    running.append(process)
                    wait_for(port, process)
                    load(port, 1)
                    started[proxy] = (process, port)
                results = {proxy: [] for proxy in proxies}
                for _ in range(arguments.rounds):
                    for proxy, (process, at) in started.items():
                        before = cpu(process.pid)
                        count, failed, p99 = load(at, arguments.seconds)
                        after = cpu(process.pid)
                        user, system = (1e6 * (late - early) / max(count, 1) for early, late in zip(before, after))
                        results[proxy].append((user + system, user, count / arguments.seconds, failed, p99))
                print(f"\n{name}\n{'':10}{'requests/s':>12}{'CPU µs':>9}{'of it user':>12}{'ratio':>8}{'p99 ms':>10}  failed")
                for proxy, rounds in results.items():
                    middle = lambda place: statistics.median(each[place] for each in rounds)
                    ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(rounds, results["nginx"]))
                    slowest = "?" if middle(4) != middle(4) else f"{middle(4):.2f}"
                    print(f"{proxy:10}{middle(2):12.0f}{middle(0):9.1f}{middle(1):12.1f}{ratio:8.2f}{slowest:>10}  {sum(each[3] for each in rounds)}", flush=True)
                for process, _ in started.values():
                    process.send_signal(signal.SIGTERM)
                    process.wait()
                    running.remove(process)
        finally:
            for process in running:
                process.terminate()


main()
