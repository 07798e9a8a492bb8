#!/usr/bin/env python3
"""Fills fuzz/corpus from tests/vectors, so that fuzzing begins with what others have found: fuzz/seed.py"""
import json, pathlib

here = pathlib.Path(__file__).resolve().parent
vectors = here.parent / "tests" / "vectors"
NAMES = ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "cloudfront-viewer-address",
         "x-original-forwarded-for", "cookie", "authorization"]


def put(target, name, data):
    folder = here / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name.replace("/", "-")).write_bytes(data)


def cases(pattern):
    for path in sorted(vectors.glob(pattern)):
        for number, case in enumerate(json.loads(path.read_text())["cases"]):
            yield f"{path.stem}-{number}", case


for name, case in cases("proxyproto-*.json"):
    put("proxy_protocol", name, bytes.fromhex(case["hex"]))
for name, case in cases("clientip-*.json"):
    lines = [bytes([NAMES.index(header.lower())]) + value.encode() for header, value in case.get("headers", []) if header.lower() in NAMES]
    for first in (0, 4):
        put("forwarding", f"{name}-{first}", bytes([first]) + b"\n".join(lines))
for name, case in cases("ipliteral-*.json"):
    put("scrub_bytes", name, case["text"].encode())
for name, case in cases("log-*.json"):
    put("scrub_bytes", name, str(case["input"]).encode())
    # Before the text: what is planted, and where.
    put("audit", name, b"\0\0\x08\0" + str(case["input"]).encode())
put("config", "template", (here.parent / "src/bin/ipveil/config/template.toml").read_bytes())
for path in sorted((here.parent / "docs").glob("*.md")):
    for number, block in enumerate(path.read_text().split("```toml\n")[1:]):
        put("config", f"{path.stem}-{number}", block.split("```")[0].encode())
