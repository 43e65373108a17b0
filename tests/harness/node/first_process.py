r"""The first process of the node's namespaces: prepares them, then collects what is left to it.

    unshare --net --mount --pid --fork --mount-proc \
        python first_process.py DIRECTORY BRIDGE ADDRESS/LENGTH SERVICES

It writes `ready` into the directory when the namespaces can be used. As process 1 it is the parent of
every orphan, and its end is the end of every process in them.
"""

import signal
import subprocess
import sys
from pathlib import Path

# What kubelet sets for the whole machine. A mount shows it these values, and the machine keeps its own.
_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def main(directory: Path, bridge: str, address: str, services: str) -> None:
    """Prepare, say so, and stay."""
    # Whatever ends here and has no parent any more needs no further goodbye.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _make_network(bridge, address, services)
    _make_folders(directory)
    _keep_tunables(directory / "tunables")
    _make_cgroups(directory.name)
    (directory / "ready").touch()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        signal.pause()


def _make_network(bridge: str, address: str, services: str) -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", bridge, "type", "bridge")
    _run("ip", "address", "add", address, "dev", bridge)
    _run("ip", "link", "set", bridge, "up")
    # Where to, the rules of kube-proxy say; without a route a connection does not come to them.
    _run("ip", "route", "add", services, "dev", bridge)
    own = address.partition("/")[0]
    if not _run("ip", "route", "get", own).startswith("local "):
        raise SystemExit(f"{own} is not an address of this network namespace")
    if ways_out := _run("ip", "route", "show", "default").strip():
        raise SystemExit(f"a new network namespace has a way out: {ways_out}")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


def _make_folders(directory: Path) -> None:
    """Give the programs folders of their own where their own choice cannot be set."""
    for name in ("run", "var/log"):
        private = directory / "private" / name
        private.mkdir(parents=True)
        _run("mount", "--bind", str(private), f"/{name}")
    # The machine's own files stay visible here: a checkout or a home may be below.
    upper, work = directory / "private/var/lib", directory / "private/var/lib-work"
    upper.mkdir(parents=True)
    work.mkdir()
    options = f"lowerdir=/var/lib,upperdir={upper},workdir={work}"
    _run("mount", "-t", "overlay", "holdfast", "-o", options, "/var/lib")


def _keep_tunables(folder: Path) -> None:
    folder.mkdir()
    for name, value in _TUNABLES.items():
        stand_in = folder / name.replace("/", ".")
        stand_in.write_text(f"{value}\n", encoding="ascii")
        _run("mount", "--bind", str(stand_in), f"/proc/sys/{name}")


def _make_cgroups(name: str) -> None:
    """Make a cgroup of this name in every hierarchy: kubelet makes those of pods below."""
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    for hierarchy in (
        [root] if unified else [path for path in root.iterdir() if not path.is_symlink()]
    ):
        group = hierarchy / name
        group.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            # Without them a group of the first version takes no process.
            if not unified and (group / file).exists():
                value = (hierarchy / file).read_text(encoding="ascii")
                (group / file).write_text(value, encoding="ascii")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
