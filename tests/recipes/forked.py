"""A `speechcwcl` that starts at once: a process that has imported what the verbs need forks.

A recipe is some twenty commands, most of whose time is the import of torch and transformers. Each
command still has a process, a working directory and an environment of its own.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys

IMPORTED = [
    *(f"speechcwcl.{name}" for name in ("apps.search", "corpora.huggingface", "data.shards")),
    *(f"speechcwcl.{name}" for name in ("report.markdown", "report.figures", "training.run")),
    *("sklearn.linear_model", "sklearn.metrics", "scipy.stats", "datasets", "torchaudio"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "whisper")),
]
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [b"x"], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextlib.contextmanager
def speechcwcl(folder, package=None):
    """Start the process; give the script that stands for the command.

    `package`: a copy of the repository whose engine is imported instead of this one.
    """
    path, script = folder / "socket", folder / "speechcwcl"
    environment = os.environ | ({"PYTHONPATH": str(package)} if package else {})
    process = subprocess.Popen(
        [sys.executable, __file__, str(path)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        script.write_text(CLIENT.format(python=sys.executable, path=str(path)))
        script.chmod(0o755)
        yield script
    finally:
        process.kill()
        process.wait()


def answer(connection):
    """Run one command in this process, which was forked for it; never comes back."""
    _, handles, _, _ = socket.recv_fds(connection, 1, 3)
    words, folder, environment = json.loads(connection.makefile("rb").read())
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    # those of before the fork may remember places in files
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115, PTH123
        for number in (1, 2)
    )
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["speechcwcl", *words]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        from speechcwcl.cli.main import main

        code = main(words)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(code)


def serve(path):
    """Import, listen, fork."""
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the ends of the children
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        os.write(1, b"ready\n")
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                answer(connection)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
