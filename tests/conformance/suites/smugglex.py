"""smugglex, a scanner for request smuggling: it must find nothing, with all of its checks, over HTTP and over TLS."""

import json
import subprocess

import http2
import install
from nginx import nginx
from processes import free_port

VERSION = "0.4.0"
CHECKS = "cl-te,te-cl,te-te,h2c,h2,cl-edge,cl-0,0-cl,parser-discrepancy"


def run(processes, program):
    smugglex = install.crate("smugglex", VERSION)
    install.debian(nginx="nginx-light")
    backend = free_port()
    nginx(processes, "backend", f"server {{ listen 127.0.0.1:{backend}; return 200 ok; }}")
    culvert, _, _ = http2.culvert(processes, program, f"127.0.0.1:{backend}")
    port = {name: getattr(culvert, name).rsplit(":", 1)[1] for name in ("http", "https")}
    problems = []
    for name, checks in (("http", CHECKS), ("https", f"{CHECKS},h2-downgrade")):
        report = processes.folder / f"{name}.json"
        report.unlink(missing_ok=True)
        command = [smugglex, "--checks", checks, "--timeout", "3", "--insecure", "--no-color", "--format", "json"]
        with open(processes.folder / f"{name}.log", "wb") as log:
            target = [f"{name}://localhost:{port[name]}/"]
            subprocess.run([*command, "--output", report, *target], stdout=log, stderr=log, timeout=1800)
        results = json.loads(report.read_text())["results"]
        checked = [check for result in results for check in result["checks"]]
        found = [check for check in checked if check["vulnerable"]]
        print(f"   {name}: {len(checked)} checks, {len(found)} findings")
        if len(checked) != len(checks.split(",")):
            problems.append(f"{name}: {len(checked)} checks instead of {checks}; see {report}")
        problems += [f"{name}: {json.dumps(check)[:300]}" for check in found]
    return problems
