"""nginx and HAProxy as they come from Debian, each in front of a backend of its own."""

import socket

from processes import free_port, until

NGINX = """
daemon off; master_process off; pid {work}/nginx.pid; error_log {work}/nginx-error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {work}/nginx-body; proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-f; uwsgi_temp_path {work}/nginx-u; scgi_temp_path {work}/nginx-s;
    client_body_timeout 3s; client_header_timeout 3s;
    upstream backend {{ server {backend}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $host;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 3s
    timeout client 3s
    timeout server 5s
    timeout http-request 3s
frontend visitors
    bind 127.0.0.1:{port}
    default_backend recorder
backend recorder
    server recorder {backend}
"""


def answers(address):
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def start(processes, name, template, backend, *command):
    """Starts one with its configuration as the last argument; answers its address."""
    port = free_port()
    config = processes.folder / f"{name}.conf"
    config.write_text(template.format(work=processes.folder, backend=backend, port=port))
    processes.start(name, *command, config)
    address = f"127.0.0.1:{port}"
    until(name, lambda: answers(address))
    return address


def nginx(processes, backend):
    return start(processes, "nginx", NGINX, backend, "nginx", "-c")


def haproxy(processes, backend):
    return start(processes, "haproxy", HAPROXY, backend, "haproxy", "-db", "-f")
