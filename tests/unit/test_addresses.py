"""What an address says, and which addresses say nothing."""

import pytest

from holdfast.errors import ConfigurationError
from holdfast.store.addresses import Address, Login, Mode, Tls, read_address

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address(Mode.STANDALONE, (("localhost", 6379),))),
        ("redis://h", Address(Mode.STANDALONE, (("h", 6379),))),
        ("redis://h:7000/3", Address(Mode.STANDALONE, (("h", 7000),), database=3)),
        ("redis://[::1]:7000/", Address(Mode.STANDALONE, (("::1", 7000),))),
        (
            "redis://a%40b:c%2F@h?namespace=x&prefix=y",
            Address(Mode.STANDALONE, (("h", 6379),), login=Login("a@b", "c/")),
        ),
        ("redis://:c@h", Address(Mode.STANDALONE, (("h", 6379),), login=Login(None, "c"))),
        ("unix:///run/a%20b", Address(Mode.STANDALONE, socket="/run/a b")),
        ("rediss://h", Address(Mode.STANDALONE, (("h", 6379),), tls=Tls())),
        (
            "rediss://h?ca=/ca.pem&cert=/c.pem&key=/k.pem&server-name=n",
            Address(Mode.STANDALONE, (("h", 6379),), tls=Tls("/ca.pem", "/c.pem", "/k.pem", "n")),
        ),
        (
            "redis+cluster://a:1,b,[::1]:3",
            Address(Mode.CLUSTER, (("a", 1), ("b", 6379), ("::1", 3))),
        ),
        ("rediss+cluster://a:1", Address(Mode.CLUSTER, (("a", 1),), tls=Tls())),
        (
            "redis+sentinel://u:p@a,b:2/main",
            Address(Mode.SENTINEL, (("a", 26379), ("b", 2)), login=Login("u", "p"), primary="main"),
        ),
        (
            "redis+sentinel://a/main/4?sentinel-username=s&sentinel-password=t%2F",
            Address(
                Mode.SENTINEL,
                (("a", 26379),),
                database=4,
                primary="main",
                sentinel_login=Login("s", "t/"),
            ),
        ),
        (
            "rediss+sentinel://a/m%20n?ca=x",
            Address(Mode.SENTINEL, (("a", 26379),), tls=Tls("x"), primary="m n"),
        ),
    ],
)
def test_what_it_says(url: str, address: Address) -> None:
    assert read_address(url) == address


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"redis://u:{SECRET}@a,b", "cannot be read"),
        (f"redis://u:{SECRET}@h/one", "cannot be read"),
        (f"redis://u:{SECRET}@h:0", "cannot be read"),
        (f"redis+cluster://u:{SECRET}@a,,b", "cannot be read"),
        (f"redis+cluster://u:{SECRET}@a@b", "cannot be read"),
        (f"redis+sentinel://u:[{SECRET}@a/n", "cannot be read"),
        (f"redis+cluster://u:{SECRET}@", "cannot be read"),
        (f"redis+cluster://u:{SECRET}@a:99999", "cannot be read"),
        (f"redis+cluster://u:{SECRET}@a/1", "one database only"),
        (f"redis+sentinel://u:{SECRET}@a", "names no primary"),
        (f"redis+sentinel://u:{SECRET}@a/", "names no primary"),
        (f"redis+sentinel://u:{SECRET}@a/n/x", "names no primary"),
        (f"redis+other://u:{SECRET}@a", "is no address"),
        (f"redis://u:{SECRET}@a?sentinel-password=x", "for redis\\+sentinel:// only"),
        (f"redis+cluster://u:{SECRET}@a?cert=x", "for rediss:// only"),
        (f"rediss://u:{SECRET}@a?key=x", "'key' without 'cert'"),
        ("unix://", "cannot be read"),
        (f"unix://host/{SECRET}", "cannot be read"),
        ("unix:///s?ca=x", "for rediss:// only"),
        (f"u:{SECRET}@h", "is no address"),
        (f"http://u:{SECRET}@h", "no address of a Redis server"),
    ],
)
def test_what_says_nothing_is_refused_without_being_shown(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        read_address(url)
    assert SECRET not in str(refusal.value)
