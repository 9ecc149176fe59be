"""An nginx as a backend, or as what a tunnel is compared with."""

import os


def nginx(processes, name, servers, prefix=()):
    """An nginx of its own, run by way of `prefix`, with defaults but for what would measure logs, reconnects or disks."""
    # Workers of a root's nginx would else run as a user who may not read this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    folder = processes.folder / name
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(f"""
{user}
daemon off;
pid {folder}/pid;
worker_processes auto;
worker_rlimit_nofile 65536;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
""")
    return processes.start(name, *prefix, "nginx", "-p", folder, "-c", config, "-e", "stderr")
