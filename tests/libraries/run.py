#!/usr/bin/env python3
"""Runs libraries for Redis, unmodified, against a Bowline cluster of three replicas.

    tests/libraries/run.py [--bowline PROGRAM] [--kill SECONDS] [--only NAME,..] [--against PORT]

The libraries are installed by pip and npm into a folder, which is kept for the next run. With
--kill, the leader is killed with SIGKILL at this interval and started again after a second. With
--against, the checks run against the server at this port instead, for example a redis-server.
Prints a table of each library's version and result; ends with 1 if a check failed.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPLICAS = 3
# Seconds over which the checks of job queues add jobs, without and with kills.
SPAN, SPAN_WITH_KILLS = 2, 20
CHECK_SECONDS_MAX = 300
# The name of a check's library at its registry, if it is not the name of the check with dashes.
PACKAGES = {
    "redis_py_lock": "redis",
    "python_redis_lock": "python-redis-lock",
    "dogpile_cache": "dogpile.cache",
    "taskiq_list": "taskiq-redis",
    "taskiq_stream": "taskiq-redis",
    "flask_limiter": "Flask-Limiter",
    "flask_caching": "Flask-Caching",
    "flask_session": "Flask-Session",
    "socket.io-redis-adapter": "@socket.io/redis-adapter",
    "socket.io-streams-adapter": "@socket.io/redis-streams-adapter",
    "node-redis-client-side-cache": "redis",
}


class Cluster:
    """Three replicas as child processes; `kill` ends the leader, which then starts again."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.ports = free_ports(2 * REPLICAS)
        self.kills, self.killer = 0, None
        self.stopped = threading.Event()
        self.processes = {}
        for number in range(1, REPLICAS + 1):
            self.start(number)
        self.wait_for_leader()

    def start(self, number):
        peers = ",".join(
            f"{id}=127.0.0.1:{self.ports[REPLICAS + id - 1]}" for id in range(1, REPLICAS + 1)
        )
        data = self.folder / f"replica-{number}"
        arguments = [
            *(self.program, "serve", "--id", str(number), "--cluster", "libraries"),
            *("--listen", f"127.0.0.1:{self.ports[number - 1]}", "--dir", str(data)),
            *("--peer-listen", f"127.0.0.1:{self.ports[REPLICAS + number - 1]}"),
            *("--peers", peers),
        ]
        if not data.exists():
            arguments.append("--bootstrap")
        log = open(self.folder / f"replica-{number}.log", "ab")
        self.processes[number] = subprocess.Popen(arguments, stdout=log, stderr=log)

    def ask(self, number, *words):
        """Returns the reply to a command as text, without interpreting it; empty on an error."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        try:
            address = ("127.0.0.1", self.ports[number - 1])
            with socket.create_connection(address, timeout=1) as connection:
                connection.sendall(request.encode())
                return connection.recv(65536).decode(errors="replace")
        except OSError:
            return ""

    def leader(self):
        for number in range(1, REPLICAS + 1):
            if "master" in self.ask(number, "ROLE"):
                return number
        return None

    def wait_for_leader(self):
        for _ in range(300):
            level = self.ask(1, "INFO", "raft")
            if self.leader() and "cluster_feature_level:1" not in level and level:
                return
            time.sleep(0.1)
        raise SystemExit(f"the replicas have no leader; see the logs in {self.folder}")

    def begin_kills(self, seconds):
        self.killer = threading.Thread(target=self.kill_leaders, args=[seconds])
        self.killer.start()

    def kill_leaders(self, seconds):
        while not self.stopped.wait(seconds):
            number = self.leader()
            if number:
                self.processes[number].send_signal(signal.SIGKILL)
                self.processes[number].wait()
                self.kills += 1
                time.sleep(1)
                self.start(number)

    def stop(self):
        self.stopped.set()
        if self.killer:
            self.killer.join()
        for process in self.processes.values():
            process.kill()
            process.wait()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    [it.close() for it in sockets]
    return ports


def install(folder):
    """Installs the libraries, unless an earlier run has; returns the path of Python."""
    python = folder / "python/bin/python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "python"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"]
        subprocess.run(pip, check=True)
        shutil.copy(HERE / "package.json", folder / "package.json")
        npm = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(npm, cwd=folder, check=True)
        (folder / "installed").touch()
    return python


def versions(python, folder):
    """Returns the version of each installed library by its name in lower case."""
    frozen = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    found = {}
    for line in frozen.splitlines():
        name, _, version = line.partition("==")
        found["python", name.lower().replace("_", "-")] = version
    modules = folder / "node_modules"
    for file in [*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")]:
        name = str(file.parent.relative_to(modules))
        text = file.read_text()
        found["node", name.lower()] = text.partition('"version"')[2].split('"')[1]
    return found


def run_check(command, port, folder, span):
    notes = folder / "jobs"
    for file in folder.glob("jobs*"):
        file.unlink()
    environment = {**os.environ, "LIBRARIES": str(folder)}
    arguments = [*command, str(port), str(notes), str(span)]
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=CHECK_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        text = "no result in time"
    finally:
        # Also the workers.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    lines = [line for line in text.splitlines() if line.strip()] or ["no output"]
    results = [line for line in lines if line.startswith(("ok ", "failed: "))]
    return (results or lines)[-1][:160]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bowline", default=str(HERE.parents[1] / "target/release/bowline"))
    parser.add_argument("--kill", type=float, default=0, help="seconds between kills")
    parser.add_argument("--only", default="", help="names of checks, separated by commas")
    parser.add_argument("--against", type=int, help="port of another server")
    parser.add_argument("--installed", help="folder for the libraries")
    options = parser.parse_args()
    installed = options.installed or Path(tempfile.gettempdir()) / "bowline-libraries"
    folder = Path(installed).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = install(folder)
    commands = {
        "python": [python, HERE / "python_checks.py"],
        "node": ["node", HERE / "node_checks.cjs"],
    }
    known = versions(python, folder)
    data = Path(tempfile.mkdtemp(prefix="bowline-libraries-"))
    cluster = None if options.against else Cluster(options.bowline, data)
    if options.kill:
        cluster.begin_kills(options.kill)
    port = options.against or cluster.ports[0]
    failures = 0
    print("| library | version | result |\n|---|---|---|")
    for language, command in commands.items():
        listed = subprocess.run([*command, "list"], capture_output=True, text=True).stdout.split()
        for name in listed:
            if options.only and name not in options.only.split(","):
                continue
            package = PACKAGES.get(name, name.replace("_", "-")).lower()
            span = SPAN_WITH_KILLS if options.kill else SPAN
            result = run_check([*command, name], port, folder, span)
            failures += not result.startswith("ok ")
            version = known.get((language, package), "?")
            print(f"| {name} ({language}) | {version} | {result} |", flush=True)
    if cluster:
        print(f"{cluster.kills} leaders were killed" if options.kill else "no leader was killed")
        cluster.stop()
        shutil.rmtree(data)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
