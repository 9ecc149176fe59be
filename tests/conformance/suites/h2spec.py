"""h2spec on the TLS listener: Culvert must pass all that bare hyper passes."""

import subprocess
import xml.etree.ElementTree as ElementTree

import http2
import install

# Cases that Culvert fails on purpose, each with its reason; docs/conformance.md has them too.
KNOWN = {}


def run(processes, program):
    h2spec = install.go("github.com/summerwind/h2spec", "v2.2.1+incompatible", "github.com/summerwind/h2spec/cmd/h2spec")
    culvert, chain, key = http2.culvert(processes, program, http2.backend(http2.Ok))
    ports = {"culvert": int(culvert.https.rsplit(":", 1)[1]), "hyper": http2.bare_hyper(processes, chain, key)}
    failures = {who: failed(processes.folder, h2spec, who, port) for who, port in ports.items()}
    return http2.compare("h2spec", failures["culvert"], failures["hyper"], KNOWN)


def failed(folder, h2spec, who, port):
    report = folder / f"{who}.xml"
    command = [h2spec, "--host", "localhost", "--port", str(port), "--tls", "--insecure", "--junit-report", report]
    with open(folder / f"{who}.log", "wb") as log:
        subprocess.run(command, stdout=log, stderr=log, timeout=600)  # it exits with 1 where a case fails
    cases = ElementTree.parse(report).iter("testcase")
    # An error is a timeout or a connection that was closed otherwise than expected.
    bad = (case for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return {f"{case.get('package')} {case.get('classname')}" for case in bad}
