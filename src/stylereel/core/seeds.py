"""Seeds of random numbers."""


def check_seed(seed: int, name: str = "seed") -> int:
    """`seed`, which must be 0 or more: torch takes a negative one for another number, numpy for none.

    Raises:
        ValueError: it is negative; the sentence names the argument.
    """
    if seed < 0:
        raise ValueError(f"A random seed is 0 or more, not {seed}; choose another {name}.")
    return seed
