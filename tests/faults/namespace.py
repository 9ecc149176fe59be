"""A network of its own for processes of a scenario, as far as Linux is asked for it."""

import secrets
import subprocess


class Namespace:
    """A network namespace, and the names of the two ends of a line to it: `near` is outside, `far` inside."""

    def __init__(self):
        self.name = f"faults-{secrets.token_hex(3)}"
        self.near, self.far = f"{self.name[-6:]}a", f"{self.name[-6:]}b"

    def make(self, *commands):
        """Makes it, and then what these commands make."""
        for command in (f"ip netns add {self.name}", *commands, f"ip -n {self.name} link set lo up"):
            subprocess.run(command.split(), check=True)

    def enter(self):
        return ["ip", "netns", "exec", self.name]

    def remove(self):
        subprocess.run(f"ip netns del {self.name}".split(), check=False)
