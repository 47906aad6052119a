"""Which pictures are trained on and which only judge: for good, near-duplicates together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from captionapp.errors import InvalidImage, NotFound
from captionapp.records import Records
from captionapp.tables import SideRow

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

#: The perceptual hash has HASH_SIDE² bits: the signs, about their median, of so many lowest
#: frequencies in each direction (imagehash.phash).
HASH_SIDE = 16
#: Bits in which the hashes of near-duplicates differ at most; unrelated ones differ in some 128.
#:
#: Measured: 2,000 photographs of Flickr8k hold not one pair within it (1,999,000 pairs, each also
#: mirrored; the first comes at 80), and 160 photographs of raccoons only the right ones (12,720
#: pairs). There it finds 6 of 9 groups that a person sees, 8 of 11 pairs, at 0 to 20 bits. The
#: others are another frame of a film, another photograph of the same scene, and a part of 64 % of
#: the width: no hash of the whole picture finds these (116 to 126 bits). Of 200 photographs, all
#: are found again after halving, squeezing to a square, JPEG of quality 10, grey, other brightness
#: or contrast, 2° of turning, mirroring, a covered corner, bars of 4 %, or 2 % cropped from each
#: side; 92 % after 4 %, 2 % after 8 %. With 64 bits the like finds as much and five false pairs.
MAX_DISTANCE = 72
_BITS = HASH_SIDE**2
#: Mirroring a picture changes the sign of the odd horizontal frequencies.
_MIRROR = int("01" * (_BITS // 2), 2)


#: Pictures by id, each with what loads it.
Pictures: TypeAlias = "Sequence[tuple[str, Callable[[], Image.Image]]]"


class Side(StrEnum):
    """What a picture is for."""

    TRAIN = "train"
    HELD_OUT = "held-out"


class Sides:
    """The sides of all pictures that were ever part of a data set, kept in the database.

    A picture never changes sides, also not when the settings change or its bytes are deleted. A
    picture whose perceptual hash is within ``MAX_DISTANCE`` bits of one that has a side joins it;
    one that is near both sides is left out for good. The side of a group without such neighbours
    is drawn by hashing ``seed`` and the smallest ``image_id`` of it, so that it does not depend on
    the order in which pictures come; ``held_out_share`` is the probability of being held out.
    """

    def __init__(self, records: Records, seed: int, held_out_share: float) -> None:
        self.records = records
        self.seed = seed
        self.held_out_share = held_out_share

    def assign(self, pictures: Pictures, wanted: Side | None = None) -> dict[str, Side | None]:
        """The side of each picture by ``image_id``; ``None`` if it is left out.

        Where nothing speaks for a side it is drawn, or is the ``wanted`` one. Only pictures that
        have no side yet are loaded. One that cannot be (NotFound, InvalidImage) has no entry, and
        gets its side when it can.
        """
        known = self._known(image_id for image_id, _ in pictures)
        hashes = _hashed(pictures, known)
        if hashes:
            known |= self._add(hashes, wanted)
        return known

    def touched(self, pictures: Pictures) -> dict[str, set[Side]]:
        """The side that each picture has, or those that it is near to; none gets one by this."""
        with self.records.read() as session:
            rows = session.execute(select(SideRow.image_id, SideRow.phash, SideRow.side)).all()
        anchors = [(row.image_id, int(row.phash, 16), Side(row.side)) for row in rows if row.side]
        known = {image_id: {side} for image_id, _, side in anchors}
        hashes = _hashed(pictures, known)
        near = neighbours(list(hashes.values()), [value for _, value, _ in anchors])
        return known | {
            image_id: {anchors[place][2] for place in found}
            for image_id, found in zip(hashes, near, strict=True)
        }

    def groups_of(self, image_ids: Iterable[str]) -> dict[str, str]:
        """Of pictures that have a side, the smallest id among each one's near-duplicates."""
        with self.records.read() as session:
            rows = session.execute(select(SideRow.image_id, SideRow.phash)).all()
        hashes = {row.image_id: int(row.phash, 16) for row in rows}
        known = sorted(set(image_ids) & set(hashes))
        together = groups([hashes[one] for one in known])
        return {known[place]: known[group[0]] for group in together for place in group}

    def _known(self, image_ids: Iterable[str]) -> dict[str, Side | None]:
        with self.records.read() as session:
            rows = session.execute(select(SideRow.image_id, SideRow.side)).all()
        sides = {image_id: Side(side) if side else None for image_id, side in rows}
        return {image_id: sides[image_id] for image_id in image_ids if image_id in sides}

    def _add(self, hashes: dict[str, int], wanted: Side | None) -> dict[str, Side | None]:
        """Give sides to new pictures and keep them.

        In one transaction, so that two processes cannot put near-duplicates on different sides.
        """
        with self.records.write() as session:
            rows = session.execute(select(SideRow.image_id, SideRow.phash, SideRow.side)).all()
            settled = {row.image_id: (int(row.phash, 16), row.side) for row in rows}
            new = {one: value for one, value in hashes.items() if one not in settled}
            given = self._sides_of(new, list(settled.values()), wanted)
            now = datetime.now(UTC).timestamp()
            for image_id, side in given.items():
                session.execute(
                    insert(SideRow).values(
                        image_id=image_id,
                        phash=f"{new[image_id]:0{_BITS // 4}x}",
                        side=side,
                        created_at=now,
                    )
                )
        others = {one: settled[one][1] for one in hashes if one in settled}
        return given | {one: Side(side) if side else None for one, side in others.items()}

    def _sides_of(
        self,
        new: dict[str, int],
        settled: Sequence[tuple[int, str | None]],
        wanted: Side | None,
    ) -> dict[str, Side | None]:
        anchors = [(value, Side(side)) for value, side in settled if side]
        ids = sorted(new)
        near = neighbours([new[one] for one in ids], [value for value, _ in anchors])
        touched = [{anchors[j][1] for j in found} for found in near]
        given: dict[str, Side | None] = {}
        for group in groups([new[one] for one in ids]):
            sides = set().union(*(touched[i] for i in group))
            if len(sides) == 2:
                side = None
            else:
                side = sides.pop() if sides else wanted or self._drawn(ids[group[0]])
            given |= {ids[i]: side for i in group}
        return given

    def _drawn(self, image_id: str) -> Side:
        digest = hashlib.sha256(f"{self.seed}:{image_id}".encode()).digest()
        number = int.from_bytes(digest[:8], "big") / 2**64
        return Side.HELD_OUT if number < self.held_out_share else Side.TRAIN


def _hashed(pictures: Pictures, known: Container[str]) -> dict[str, int]:
    """The hashes of the pictures that are not known and can be loaded."""
    hashes: dict[str, int] = {}
    for image_id, load in pictures:
        if image_id in known or image_id in hashes:
            continue
        try:
            hashes[image_id] = perceptual_hash(load())
        except (NotFound, InvalidImage) as error:
            logger.warning("picture %s gets no side: %s", image_id, error)
    return hashes


def perceptual_hash(image: Image.Image) -> int:
    """256 bits that change little when the picture is resized, recompressed or recoloured."""
    import imagehash

    return int(str(imagehash.phash(image, hash_size=HASH_SIDE)), 16)


def neighbours(hashes: Sequence[int], others: Sequence[int]) -> list[list[int]]:
    """For each hash, the places of those ``others`` that are near-duplicates, mirrored or not."""
    import numpy as np

    def array(values: Sequence[int]) -> Any:
        """The values as rows of 64-bit words, whose bits numpy counts."""
        data = b"".join(value.to_bytes(_BITS // 8, "big") for value in values)
        return np.frombuffer(data, np.uint64).reshape(-1, _BITS // 64)

    against, mirror = array(others), array([_MIRROR])
    found = []
    for value in array(hashes):
        differing = against ^ value
        straight = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
        mirrored = np.bitwise_count(differing ^ mirror).sum(axis=1, dtype=np.int64)
        found.append(np.flatnonzero(np.minimum(straight, mirrored) <= MAX_DISTANCE).tolist())
    return found


def groups(hashes: Sequence[int]) -> list[list[int]]:
    """The places of the hashes, in groups: near-duplicates, and theirs, are together."""
    near = neighbours(hashes, hashes)
    seen: set[int] = set()
    found = []
    for start in range(len(hashes)):
        if start in seen:
            continue
        seen.add(start)
        group, open_ends = [], [start]
        while open_ends:
            one = open_ends.pop()
            group.append(one)
            fresh = [other for other in near[one] if other not in seen]
            seen.update(fresh)
            open_ends += fresh
        found.append(sorted(group))
    return found
