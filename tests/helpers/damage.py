"""Damage as disks and networks do it: one flipped bit at a time."""

import random


def flips(folder, number, seed):
    """Flip `number` bits of a folder's files, one after the other, and each back when the loop goes on.

    Every file gets its share, however small it is, since most bits lie in the largest. Yields the file and the place.
    """
    rng, files = random.Random(seed), sorted(path for path in folder.rglob("*") if path.is_file())
    for i in range(number):
        file = files[i % len(files)]
        whole = file.read_bytes()
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        yield file, f"bit {bit} of byte {place} of {file.name}"
        file.write_bytes(whole)
