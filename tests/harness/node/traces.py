"""What a node could leave on a machine, as a set that can be compared before and after."""

import re
import subprocess
import tempfile
from pathlib import Path

from tests.harness.image import cache_folder
from tests.harness.node.leftovers import PREFIX

_NODE = re.compile(rf"{PREFIX}[0-9a-f]{{8}}")
_FOLDERS = ("/etc/cni", "/opt/cni", "/run/containerd", "/run/netns", "/var/lib/cni")
_FOLDERS += ("/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/run/xtables.lock")
_TUNABLES = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
_TUNABLES += ("net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max")


def traces() -> frozenset[str]:
    """Everything on this machine that a node might have made, one line each.

    Mounts, network links, addresses, routes, rules of the firewall, cgroups, network namespaces with a
    name, settings of the kernel, processes that are or were told of a node, folders that its programs
    choose by themselves, and its directories.
    """
    return frozenset(
        [
            *_lines("mount", _mounts()),
            *_lines("link", _output("ip", "-o", "-brief", "link")),
            *_lines("address", _output("ip", "-o", "-brief", "address")),
            *_lines("route", _output("ip", "route")),
            *_lines("rule", _output("iptables-save"), _output("ip6tables-save")),
            *_lines("netns", _output("ip", "netns", "list")),
            *_lines("cgroup", "\n".join(str(path) for path in _cgroups())),
            *(f"folder {name}" for name in _FOLDERS if Path(name).exists()),
            *(f"tunable {name}={value}" for name in _TUNABLES if (value := _tunable(name))),
            *(f"directory {path}" for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")),
            *(f"process {line}" for line in _processes()),
        ]
    )


def more(before: frozenset[str]) -> list[str]:
    """What there is now and was not before, sorted.

    A setting that was not there at all came with a part that the kernel has loaded meanwhile, and stays.
    """
    known = {line.partition("=")[0] for line in before}
    return [
        line
        for line in sorted(traces() - before)
        if not line.startswith("tunable ") or line.partition("=")[0] in known
    ]


def processes_in(namespaces: frozenset[str], node: str) -> set[str]:
    """The processes of a node that are in one of these namespaces, such as `net:[4026532281]`.

    A namespace that is gone leaves its number to the next one: what is told of another node is not meant.
    """
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("net", "mnt", "pid"):
            try:
                if str((process / "ns" / kind).readlink()) in namespaces:
                    nodes, _ = _told(process)
                    if not nodes or node in nodes:
                        found.add(process.name)
            except OSError:
                continue  # it has ended
    return found


def namespaces_of(pid: int) -> frozenset[str]:
    """The network, mount and process namespaces of a process."""
    links = (Path(f"/proc/{pid}/ns/{kind}").readlink() for kind in ("net", "mnt", "pid"))
    return frozenset(str(link) for link in links)


def _lines(kind: str, *texts: str) -> list[str]:
    return [
        f"{kind} {line}"
        for text in texts
        for line in text.splitlines()
        if line and not line.startswith(("#", ":"))
    ]


def _mounts() -> str:
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    # The fifth field is where; the numbers before it change from one look to the next.
    places = [" ".join(line.split()[3:5]) for line in text.splitlines()]
    builds = str(cache_folder())  # an image that is built meanwhile is mounted there
    return "\n".join(place for place in places if builds not in place)


def _cgroups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.is_dir()]


def _processes() -> list[str]:
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            nodes, words = _told(process)
        except OSError:
            continue  # it has ended
        if nodes:
            found.append(f"{process.name} {' '.join(nodes)} {words}")
    return found


def _told(process: Path) -> tuple[list[str], str]:
    """Of which nodes a process is, as its cgroup says, or who it talks to; and its words."""
    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    groups = (process / "cgroup").read_text(errors="replace")
    return sorted(set(_NODE.findall(words + groups))), words


def _tunable(name: str) -> str | None:
    path = Path("/proc/sys", name)
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def _output(*command: str) -> str:
    # A kernel without the firewall of one family has no rules of it, and its program says so.
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
