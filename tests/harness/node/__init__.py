"""A whole Kubernetes node on this machine, for the tests: control plane, kubelet, containers, names.

Everything of it lives in namespaces of its own (network, mounts, processes), in one directory and in
one cgroup, all named `holdfast-node-*`. Its network has no way out, so nothing but the addresses made
there can be talked to, and this machine's network is neither used nor changed. When the first process
of the namespaces ends, for whatever reason, the kernel ends all others and takes network, mounts and
rules with them; directory and cgroup go in `Node.stop`, or with the next start after a crash.
"""
