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
    hyper, _ = http2.bare_hyper(processes, chain, key)
    failures = [failed(processes.folder, h2spec, *of) for of in (("culvert", culvert.https), ("hyper", hyper))]
    return http2.compare(*failures, KNOWN)


def failed(folder, h2spec, who, address):
    report, port = folder / f"{who}.xml", address.rsplit(":", 1)[1]
    command = [h2spec, "--host", "localhost", "--port", port, "--tls", "--insecure", "--junit-report", report]
    with open(folder / f"{who}.log", "wb") as log:
        subprocess.run(command, stdout=log, stderr=log, timeout=600)  # it exits with 1 where a case fails
    cases = list(ElementTree.parse(report).iter("testcase"))
    print(f"   {who}: {len(cases)} cases")
    # An error is a timeout or a connection that was closed otherwise than expected.
    bad = (case for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return {f"{case.get('package')} {case.get('classname')}" for case in bad}
