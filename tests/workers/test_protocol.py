"""Frames survive every way a stream can be cut, and whatever breaks the rules becomes a sentence."""

import io
import json
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.protocol import FrameBuffer, FrameError, PeerGone, encode_frame, read_frame

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def without_surrogates(value):
    return "\\ud" not in json.dumps(value)


@given(st.lists(values.filter(without_surrogates), max_size=5), st.integers(1, 7))
def test_frames_cut_anywhere_come_out_whole_and_in_order(sent, piece):
    stream = b"".join(encode_frame(value) for value in sent)
    buffer, received = FrameBuffer(1 << 20), []
    for start in range(0, len(stream), piece):
        received += buffer.feed(stream[start : start + piece])
    assert received == sent
    reader = io.BytesIO(stream)
    assert [read_frame(lambda n: reader.read(min(n, piece)), 1 << 20) for _ in sent] == sent


@given(st.binary(max_size=64))
def test_no_bytes_whatsoever_raise_anything_but_a_frame_error(noise):
    buffer = FrameBuffer(1000)
    for reader in (io.BytesIO(noise).read, None):
        try:
            list(buffer.feed(noise)) if reader is None else read_frame(reader, 1000)
        except FrameError as error:
            assert str(error)


def test_a_frame_above_the_limit_is_refused_before_it_is_read():
    reader = io.BytesIO(struct.pack(">I", 2**31) + b"x")
    with pytest.raises(FrameError, match=r"2,147,483,648 bytes is not allowed; send at most 1,000"):
        read_frame(reader.read, 1000)
    with pytest.raises(FrameError, match="not allowed"):
        next(FrameBuffer(1000).feed(struct.pack(">I", 1001)))


def test_a_stream_that_ends_anywhere_before_the_end_of_a_frame_says_so():
    whole = encode_frame({"op": "ping"})
    for cut in range(len(whole)):
        with pytest.raises(PeerGone, match="closed the connection"):
            read_frame(io.BytesIO(whole[:cut]).read, 1000)


def test_a_deeply_nested_message_is_a_sentence_and_not_a_crash():
    body = b"[" * 100_000
    with pytest.raises(FrameError, match="not JSON"):
        read_frame(io.BytesIO(struct.pack(">I", len(body)) + body).read, 1 << 20)


def test_nan_is_not_sent_because_json_has_none():
    with pytest.raises(ValueError, match="[Nn]a[Nn]|not JSON compliant"):
        encode_frame({"x": float("nan")})


def test_random_garbage_before_a_frame_never_yields_a_made_up_value():
    chance = random.Random(5)
    for _ in range(200):
        noise = bytes(chance.randrange(1, 256) for _ in range(8))
        try:
            assert list(FrameBuffer(1000).feed(noise)) == []
        except FrameError:
            continue


def test_what_came_before_a_broken_frame_is_kept():
    frames = FrameBuffer(1000).feed(encode_frame({"phase": "build"}) + struct.pack(">I", 2) + b"no")
    assert next(frames) == {"phase": "build"}
    with pytest.raises(FrameError):
        next(frames)
