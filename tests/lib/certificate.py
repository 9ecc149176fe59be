"""Certificates of a run's own."""

import subprocess


def certificate(folder, *names):
    """A certificate for these names, signed by itself; answers the paths of chain and key."""
    chain, key = folder / f"{names[0]}.crt", folder / f"{names[0]}.key"
    alternatives = ",".join(f"DNS:{name}" for name in names)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    command += ["-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}", "-keyout", key, "-out", chain]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return chain, key


def tls_secret(name, chain, key):
    """The Secret that a TunnelHost's `tls.secretRef` names."""
    data = {"tls.crt": chain.read_text(), "tls.key": key.read_text()}
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "stringData": data}


def authority(folder, *names):
    """A certificate for these names and the authority that signed it; answers the paths of authority, chain and key."""
    root, signer = folder / "authority.crt", folder / "authority.key"
    request, chain, key = (folder / f"{names[0]}.{kind}" for kind in ("csr", "crt", "key"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    alternatives = ",".join(f"DNS:{name}" for name in names)
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\n")
    for command in (
        ["req", "-x509", *curve, "-days", "30", "-subj", "/CN=authority", "-keyout", signer, "-out", root],
        ["req", *curve, "-subj", f"/CN={names[0]}", "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, "-CA", root, "-CAkey", signer, "-CAcreateserial", "-days", "30",
         "-extfile", extensions, "-out", chain],
    ):
        subprocess.run(["openssl", *command], check=True, stderr=subprocess.DEVNULL)
    return root, chain, key
