"""What two operators would make for tests over TLS: one authority, one certificate for all machines."""
import pathlib
import subprocess


def make_certificate(folder) -> tuple[str, str]:
    """Paths of certificate and key, of this machine's loopback names."""
    certificate, key = (str(pathlib.Path(folder, name)) for name in ("cert.pem", "key.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key
