"""A fuzzer: what comes from outside, altered byte by byte, led by which code each alteration reaches (atheris).

    targets      what is read, with examples to begin from; each is read or refused in words, and nothing else
    mutating     how JSON is altered so that it stays JSON
    __main__     `make fuzz`: plays targets in turn, and keeps what it finds

The properties in tests/flow/test_bad_input.py know the form of what they alter, and are part of every `make test`. This
finds what nobody thought of, and takes its time.
"""
