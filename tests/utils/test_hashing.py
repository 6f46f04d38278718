"""Digests that runs and caches on disk hold: they must be SHA-256, whatever way the bytes come."""

from pipeline.utils.hashing import sha256_of_bytes, sha256_of_file, short_digest

# FIPS 180-4's example, "abc".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
# The million letters a of the same standard.
MILLION = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


def test_bytes_and_pieces_of_them_have_one_digest():
    assert sha256_of_bytes(b"abc") == sha256_of_bytes([b"a", b"", b"bc"]) == ABC
    assert sha256_of_bytes(b"a" * 1000 for _ in range(1000)) == MILLION


def test_a_file_and_its_shards_have_one_digest(tmp_path):
    for name, size in (("whole", 1_000_000), ("first", 999_999), ("second", 1)):
        (tmp_path / name).write_bytes(b"a" * size)
    assert sha256_of_file(tmp_path / "whole") == MILLION
    assert sha256_of_file(tmp_path / "first", str(tmp_path / "second")) == MILLION


def test_a_short_digest_is_the_beginning_of_the_whole_one():
    assert (short_digest("abc"), short_digest(b"abc", 8)) == (ABC[:16], ABC[:8])
    # SHA-256 of "ü" in UTF-8, by `printf ü | sha256sum`.
    assert short_digest("ü", 12) == "607474ca475a"
