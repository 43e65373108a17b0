"""Our image for the tests: built from the Dockerfile with buildah, on a base made by debootstrap.

No image registry is asked. What takes long is in the cache beside the control plane: the base, the
layers, and the finished archives.

    python -m tests.harness.image build

prints the path of the archive.
"""

import ast
import fcntl
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import image_bases

ROOT = Path(__file__).parents[2]
REFERENCE = "localhost/holdfast:test"
ARGUMENTS: Mapping[str, str] = {
    "SOURCE_DATE_EPOCH": "1767225600",
    "VERSION": "0.0.0-test",
    "REVISION": "0" * 40,
    "SOURCE": "https://example.org/holdfast",
    "LICENSES": "Apache-2.0",
}
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SOURCES = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"),
    *("requirements/build.txt", "requirements/image.txt", "image", "operator"),
)
_KEPT_ARCHIVES = 4
_KEPT_LAYERS = 200
_IN_USE = 3600.0


class ImageUnavailable(Exception):
    """The image cannot be built here; one sentence says what is missing, or what failed."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: an OCI archive, and the name that it carries inside."""

    archive: Path
    reference: str = REFERENCE


def ensure(environ: Mapping[str, str] = os.environ) -> Image:
    """Find the image of these sources in the cache, or build it (minutes once, then seconds).

    Any number of processes may ask at the same time: one builds, the others wait for it.

    Raises:
        ImageUnavailable: not root, a program is missing, or the build failed.
    """
    cache = cache_folder(environ)
    archive = cache / f"holdfast-{digest_of_sources()[:16]}.oci.tar"
    if archive.is_file():
        archive.touch()
        return Image(archive)
    with opened(cache, environ) as buildah:
        if not archive.is_file():
            buildah.build()
            buildah.save(REFERENCE, archive)
            _prune(cache, buildah)
    return Image(archive)


def unavailable(environ: Mapping[str, str] = os.environ) -> str | None:
    """Why the image cannot be built here, as a sentence that says what to do; None if it can."""
    if os.geteuid() != 0:
        return "building the image needs root"
    lacking = [
        name
        for name in ("buildah", "debootstrap")
        if shutil.which(name, path=environ.get("PATH")) is None
    ]
    if lacking:
        return (
            f"building the image needs {' and '.join(lacking)}: apt-get install {' '.join(lacking)}"
        )
    return None


def digest_of_sources(root: Path = ROOT) -> str:
    """The digest of everything that the Dockerfile may copy, itself, and what makes its bases."""
    digest = hashlib.sha256(Path(image_bases.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    for source in SOURCES:
        path = root / source
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the base, the layers and the archives are kept."""
    if chosen := environ.get("HOLDFAST_CACHE"):
        cache = Path(chosen)
    else:
        cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "holdfast"
    return cache.expanduser().absolute() / "image"


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with a store of its own, so that nothing of the machine's is read or changed.

    Made by `opened`; when its block ends, nothing of it is mounted. `program` may be the command of
    another with the same options: Podman's `build` has them.
    """

    store: Path
    driver: str
    environ: Mapping[str, str]
    program: Sequence[str] = ("buildah",)

    def bases(self) -> dict[str, str]:
        """The build arguments that name the two bases, which are made once."""
        made = hashlib.sha256(Path(image_bases.__file__).read_bytes()).hexdigest()[:12]
        full, small = (f"localhost/holdfast-{kind}:{made}" for kind in ("full", "small"))
        if not all(self._has(name) for name in (full, small)):
            print("making the base images, once (some minutes)", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="base-", dir=self.store.parent) as scratch:
                trees = Path(scratch, "full"), Path(scratch, "small")
                try:
                    image_bases.make_full(trees[0], self.environ)
                except image_bases.BaseUnavailable as error:
                    raise ImageUnavailable(str(error)) from None
                image_bases.make_small(*trees)
                for name, tree in zip((full, small), trees, strict=True):
                    self._import(name, tree)
        return {"BASE": full, "RUNTIME": small}

    def build(
        self,
        name: str = REFERENCE,
        *,
        secret: str = "",
        context: Path = ROOT,
        layers: bool = True,
    ) -> None:
        """Build the Dockerfile.

        Args:
            name: the image's name.
            context: a work tree, or a copy of what is needed of it (`copy_sources`).
            secret: text that the pip.conf of the build has besides what is needed, as a comment.
            layers: whether steps that ran before are taken from the cache.
        """
        given = {**self.bases(), **ARGUMENTS}
        command = ["build", "--isolation=chroot", "--network=host", "--format=oci"]
        command += [f"--timestamp={given['SOURCE_DATE_EPOCH']}", f"--tag={name}"]
        command += ["--layers" if layers else "--no-cache", "--pull-never"]
        command += [f"--build-arg={key}={value}" for key, value in given.items()]
        with secrets_of_build(self.store.parent, self.environ, secret) as secrets:
            self(*command, *secrets, str(context))

    def save(self, name: str, archive: Path) -> None:
        """Write an image as an OCI archive, in one step: nobody ever sees half a file."""
        unfinished = archive.with_name(f".{archive.name}.unfinished")
        self("push", "--quiet", name, f"oci-archive:{unfinished}:{REFERENCE}")
        unfinished.replace(archive)

    def __call__(self, *arguments: str) -> str:
        """Run buildah and return what it printed; raises `ImageUnavailable` when it failed."""
        done = self.call(*arguments)
        if done.returncode != 0:
            lines = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise ImageUnavailable(f"{self.program[-1]} {arguments[0]} failed:\n{lines}")
        return done.stdout

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run buildah and return how it ended."""
        where = ["--root", str(self.store / "root"), "--runroot", str(self.store / "run")]
        return _run(
            [*self.program, *where, "--storage-driver", self.driver, *arguments], self.environ
        )

    def _has(self, name: str) -> bool:
        return self.call("inspect", "--type", "image", name).returncode == 0

    def _import(self, name: str, tree: Path) -> None:
        container = self("from", "scratch").strip()
        self("add", "--quiet", container, str(tree), "/")
        self("commit", "--quiet", "--rm", container, name)


@contextmanager
def opened(cache: Path, environ: Mapping[str, str] = os.environ) -> Iterator[Buildah]:
    """Have buildah with the store in `cache` for oneself: others wait until the block ends.

    Raises:
        ImageUnavailable: not root, or a program is missing.
    """
    if (why := unavailable(environ)) is not None:
        raise ImageUnavailable(why)
    store = cache / "store"
    store.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives it back
        # Inside another container's overlay there can be no second one: copies work everywhere.
        candidates = [Buildah(store, driver, environ) for driver in ("overlay", "vfs")]
        usable = [one for one in candidates if one.call("info").returncode == 0]
        if not usable:
            raise ImageUnavailable(f"buildah cannot keep images in {store}")
        try:
            yield usable[0]
        finally:
            # A build in stages, or one that was stopped, leaves containers, and they are mounted.
            usable[0].call("rm", "--all")


@contextmanager
def secrets_of_build(
    folder: Path, environ: Mapping[str, str] = os.environ, comment: str = ""
) -> Iterator[list[str]]:
    """Write the secrets of a build to files that are gone at the end; yield its options for them.

    Args:
        folder: where the files are meanwhile.
        environ: as pip has it here.
        comment: a text that the pip.conf of the build has besides what is needed.
    """
    with tempfile.TemporaryDirectory(prefix="pip-", dir=folder) as scratch:
        configuration, authority = Path(scratch, "pip.conf"), Path(scratch, "ca.pem")
        text, certificates = pip_configuration(environ)
        configuration.write_text(f"{text}# {comment}\n", encoding="utf-8")
        authority.write_bytes(certificates)
        yield [f"--secret=id=pip,src={configuration}", f"--secret=id=certificates,src={authority}"]


def pip_configuration(environ: Mapping[str, str] = os.environ) -> tuple[str, bytes]:
    """The machine's configuration of pip for a container, and the authorities it believes.

    Of files and variables only what says where packages are and how they are reached. It may hold
    credentials: it is a secret.
    """
    done = _run([sys.executable, "-m", "pip", "config", "list"], environ)
    found: dict[str, str] = {}
    # Variables win over files, whatever the order in which they are printed.
    for line in sorted(done.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")  # the value is a literal of Python's
        found[key.rpartition(".")[2].removeprefix("default-")] = str(ast.literal_eval(value))
    wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
    lines = ["[global]", "cert = /run/secrets/certificates"]
    lines += [
        f"{option} = " + "\n    ".join(found[option].split())
        for option in wanted
        if option in found
    ]
    authority = found.get("cert") or ssl.get_default_verify_paths().cafile or _CERTIFICATES
    return "\n".join([*lines, ""]), Path(authority).read_bytes()


def copy_sources(target: Path) -> None:
    """Copy what the Dockerfile needs into a folder to be made, as another checkout might have it.

    Times and modes are others, and the vocabularies are not there yet.
    """
    leave = shutil.ignore_patterns("__pycache__", "vocabularies")
    for source in SOURCES:
        path = target / source
        path.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, path, ignore=leave)
        else:
            shutil.copyfile(ROOT / source, path)
    for path in (target, *target.rglob("*")):
        path.chmod(0o775 if path.is_dir() else 0o664)
        os.utime(path, (1_600_000_000, 1_600_000_000))


def _prune(cache: Path, buildah: Buildah) -> None:
    """Keep the archives that were used last: every change of a source makes another one.

    So does it make layers. They are dropped together: the next build starts from the bases.
    """
    archives = sorted(cache.glob("holdfast-*.oci.tar"), key=lambda file: file.stat().st_mtime)
    for archive in archives[:-_KEPT_ARCHIVES]:
        if time.time() - archive.stat().st_mtime > _IN_USE:
            archive.unlink(missing_ok=True)
    if len(buildah("images", "--all", "--quiet").split()) > _KEPT_LAYERS:
        buildah("rmi", "--prune", "--force")


def _run(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, check=False, cwd="/"
    )


def main() -> None:
    """Build and say where it is."""
    if sys.argv[1:] != ["build"]:
        sys.exit("usage: python -m tests.harness.image build")
    try:
        print(ensure().archive)
    except ImageUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
