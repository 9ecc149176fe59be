"""An edge and an agent outside a cluster, with objects of the run's own."""

import json
import re
import secrets
import shutil

from processes import free_port, until


def object_of(kind, name, spec):
    return {"apiVersion": "culvert.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def tunnel_host(name, hostname, target, backend=None, **spec):
    """A TunnelHost with one route to `target`; `backend` and `spec` hold what else it needs."""
    backend = {"agents": [{"name": "lab"}], "targets": [{"address": target}], **(backend or {})}
    return object_of("TunnelHost", name, {"hostnames": [hostname], "routes": [{"backend": backend}], **spec})


class Culvert:
    """A running edge and its agent; `http`, `https`, `bridge` and `admin` are its addresses."""

    def __init__(self, processes, program, objects, flags=(), log="off"):
        folder = processes.folder / "culvert"
        self.manifests = folder / "manifests"
        shutil.rmtree(folder, ignore_errors=True)
        self.manifests.mkdir(parents=True, mode=0o700)
        token = secrets.token_urlsafe()
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "lab-token"},
            "type": "culvert.dev/agent-token",
            "stringData": {"token": token},
        }
        credentials = [{"secretRef": {"name": "lab-token"}}]
        agent = object_of("TunnelAgent", "lab", {"credentials": credentials, "limits": {"connections": 100000}})
        self.write("agent", secret, agent)
        self.write("objects", *objects)
        (folder / "token").write_text(token)

        addresses = {name: f"127.0.0.1:{free_port()}" for name in ("http", "https", "bridge", "admin")}
        listen = [word for name, address in addresses.items() for word in (f"--{name}", address)]
        state = ["--state", folder / "state"]
        command = [program, "serve", "--manifests", self.manifests, f"--access-log={log}", *state, *listen, *flags]
        self.edge = processes.start("culvert-edge", *command)
        pattern = r"--edge-fingerprint (sha256:[0-9A-Za-z+/=_-]+)"
        pin = until("Culvert's edge", lambda: re.search(pattern, self.edge.log.read_text()))
        dial = ["--edge", f"https://{addresses['bridge']}", "--edge-fingerprint", pin[1], "--agent", "default/lab"]
        allow = ["--token-file", folder / "token", "--allow", "127.0.0.1:*"]
        self.agent = processes.start("culvert-agent", program, "agent", *dial, *allow)
        until("the agent's session", lambda: "connected to the edge" in self.agent.log.read_text())
        self.__dict__.update(addresses)

    def write(self, name, *objects):
        """Puts these objects in the place of those that the file had."""
        new = self.manifests / f".{name}.new"
        new.write_text("\n---\n".join(map(json.dumps, objects)))
        new.rename(self.manifests / f"{name}.yaml")
