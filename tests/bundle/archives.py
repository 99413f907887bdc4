"""Archives that `bundle` did not write: changed ones with digests redone, and hostile ones."""

import hashlib
import io
import json
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fcn_deploy.bundle.container import Archive, write_archive
from fcn_deploy.bundle.manifest import MANIFEST


def contents_of(bundle: Path) -> dict[str, bytes]:
    """Return the files of a bundle."""
    with bundle.open("rb") as stream:
        archive = Archive(bundle, stream)
        return {name: b"".join(archive.blocks(name)) for name in archive.members}


def pack(target: Path, contents: Mapping[str, bytes]) -> Path:
    """Write an archive of the form of a bundle."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (name, content) in enumerate(contents.items()):
            files[name] = Path(folder) / str(number)
            files[name].write_bytes(content)
        write_archive(target, files)
    return target


def forged(bundle: Path, target: Path, changes: Mapping[str, bytes]) -> Path:
    """Write a bundle with some files exchanged, and every digest redone."""
    contents = {**contents_of(bundle), **changes}
    manifest = json.loads(contents[MANIFEST])
    for name, content in changes.items():
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        manifest["files"][name] = {"size": len(content), "digest": digest}
        for entry in (*manifest["onnx"], *manifest["engines"]):
            if entry["file"] == name:
                entry["digest"] = digest
    return pack(target, contents | {MANIFEST: json.dumps(manifest).encode()})


# -- hostile ones: each from the bytes of an archive, a name in it, and chance --------------------

Forge = Callable[[bytes, str, random.Random], bytes]


Entry = tuple[zipfile.ZipInfo, bytes]


def _rezipped(content: bytes, change: Callable[[zipfile.ZipInfo, bytes], list[Entry]]) -> bytes:
    """Write a zip's files anew with Python's own zipfile; each may become others."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for info in old.infolist():
            for other, data in change(info, old.read(info)):
                new.writestr(other, data, other.compress_type)
    return written.getvalue()


def _info(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def _added(*entries: Entry) -> Forge:
    def forge(content: bytes, victim: str, chance: random.Random) -> bytes:
        return _rezipped(
            content,
            lambda info, data: [(info, data), *(entries if info.filename == victim else ())],
        )

    return forge


def _named(*names: str) -> Forge:
    """Add a file under one of these names."""
    return lambda content, victim, chance: _added((_info(chance.choice(names)), b"evil"))(
        content, victim, chance
    )


def traversal(content: bytes, victim: str, chance: random.Random) -> bytes:
    up = "../" * chance.randint(1, 4)
    names = (f"{up}evil", f"engines/{up}evil.plan", f"{up}etc/cron.d/x", "..\\evil")
    return _named(*names)(content, victim, chance)


absolute = _named("/etc/passwd", "//host/share/x", "\\windows\\x", "/model.onnx")
drive = _named("C:/x", "c:evil", "Z:\\x", "C:model.onnx")
unknown = _named("model.pkl", "state.pt", "run.sh", "a/b/c.json", "x\u00e9.json", ".hidden")


def link(content: bytes, victim: str, chance: random.Random) -> bytes:
    target = chance.choice([b"/etc/passwd", b"../../secret", b"model.onnx"])
    return _rezipped(
        content,
        lambda info, data: [
            (_info(victim, 0o120777), target) if info.filename == victim else (info, data)
        ],
    )


def device(content: bytes, victim: str, chance: random.Random) -> bytes:
    kind = chance.choice([0o010644, 0o020644, 0o060644, 0o140644])  # pipe, devices, socket
    return _rezipped(
        content,
        lambda info, data: [
            (_info(victim, kind), b"") if info.filename == victim else (info, data)
        ],
    )


def windows_device(content: bytes, victim: str, chance: random.Random) -> bytes:
    name = chance.choice(["bench/nul.json", "CON", "parity/com1.json", "aux.json"])
    return _added((_info(name), b"{}"))(content, victim, chance)


def duplicate(content: bytes, victim: str, chance: random.Random) -> bytes:
    return _added((_info(victim), b"another"))(content, victim, chance)


def case_collision(content: bytes, victim: str, chance: random.Random) -> bytes:
    return _added((_info(victim.upper()), b"another"))(content, victim, chance)


def bomb(content: bytes, victim: str, chance: random.Random) -> bytes:
    info = _info(victim)
    info.compress_type = chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    size = chance.randint(1, 1000) << 10
    return _rezipped(
        content,
        lambda old, data: [(info, b"\0" * size) if old.filename == victim else (old, data)],
    )


def truncated(content: bytes, victim: str, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def padded(content: bytes, victim: str, chance: random.Random) -> bytes:
    junk = chance.randbytes(chance.randint(1, 64))
    return junk + content if chance.random() < 0.5 else content + junk


def _entry_of(content: bytes, victim: str) -> int:
    """Return where a file's entry of the directory stands."""
    (start,) = struct.unpack_from("<L", content, len(content) - 6)
    return content.index(victim.encode(), start) - 46


def _changed(place: int, form: str, value: Callable[[int, random.Random], int]) -> Forge:
    def forge(content: bytes, victim: str, chance: random.Random) -> bytes:
        changed = bytearray(content)
        at = _entry_of(content, victim) + place
        (old,) = struct.unpack_from(form, content, at)
        struct.pack_into(form, changed, at, value(old, chance))
        return bytes(changed)

    return forge


#: Flag "encrypted" in the directory; also strong encryption.
encrypted = _changed(8, "<H", lambda old, chance: old | chance.choice([1, 0x41, 0x2001]))
#: Both sizes say "look into the zip64 field", which is not there.
zip64_size = _changed(24, "<L", lambda old, chance: 0xFFFFFFFF)
zip64_place = _changed(42, "<L", lambda old, chance: 0xFFFFFFFF)
larger = _changed(24, "<L", lambda old, chance: old + chance.randint(1, 1 << 30))
overlapping = _changed(42, "<L", lambda old, chance: max(0, old - chance.randint(1, 30)))
other_crc = _changed(16, "<L", lambda old, chance: old ^ 1 << chance.randrange(32))


def zip64(content: bytes, victim: str, chance: random.Random) -> bytes:
    """Put the end record of a zip64 before the usual one, which refers to it."""
    count, size, start = struct.unpack_from("<HLL", content, len(content) - 12)
    lie = chance.choice([count, 1 << 40])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, lie, lie, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(content) - 22, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:-22] + record + locator + end


def many(content: bytes, victim: str, chance: random.Random) -> bytes:
    """Say that there are more, or fewer, files than there are."""
    changed = bytearray(content)
    (count,) = struct.unpack_from("<H", content, len(content) - 12)
    other = chance.choice([0, count - 1, count + 1, 0xFFFE])
    struct.pack_into("<2H", changed, len(content) - 14, other, other)
    return bytes(changed)


HOSTILE: dict[str, Forge] = {
    "traversal": traversal,
    "absolute": absolute,
    "drive": drive,
    "link": link,
    "device": device,
    "windows device": windows_device,
    "duplicate": duplicate,
    "case collision": case_collision,
    "unknown name": unknown,
    "bomb": bomb,
    "truncated": truncated,
    "padded": padded,
    "encrypted": encrypted,
    "zip64 size": zip64_size,
    "zip64 place": zip64_place,
    "larger than it is": larger,
    "overlapping": overlapping,
    "other checksum": other_crc,
    "zip64": zip64,
    "wrong count": many,
}
