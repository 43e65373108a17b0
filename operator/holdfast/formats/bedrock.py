"""Messages of the Converse API of Amazon Bedrock: each block is an object with one field."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from holdfast.formats._facts import JSON, Facts, Reader, read_json, read_text, unrecognised
from holdfast.formats._parts import (
    Part,
    Reading,
    Shape,
    content_blocks,
    fields_of,
    members_of,
    read_any,
    read_string,
    speaker,
)


class BedrockFormat:
    """Reader of `{"role", "content": [{"toolUse": {...}}, ...]}`."""

    __slots__ = ()
    name = "bedrock"

    def matches(self, item: JSON) -> bool:
        """Tell whether a block is of this API alone."""
        if not isinstance(item, dict) or item.get("type") is not None:
            return False
        return any(
            isinstance(block, dict) and "type" not in block and not _OWN.isdisjoint(block)
            for block in content_blocks(item)
        )

    def facts(self, item: JSON) -> Facts:
        """Read the item as a message."""
        if not isinstance(item, dict) or "content" not in item:
            return unrecognised(item)
        content = item["content"]
        reading = Reading()
        if isinstance(content, (list, tuple)):
            for block in content:
                _take(block, reading)
        else:
            reading.require(False)
        return reading.facts(item, speaker(item))


def _take(block: JSON, reading: Reading) -> None:
    """Read a block by its one field; more of them are read as if each were a block."""
    known = False
    for key, value in block.items() if isinstance(block, dict) else ():
        shape = _BLOCKS.get(key)
        if shape is None or value is None:
            reading.require(value is None)
            continue
        known = True
        reading.take(shape, block)
        call_id = value.get("toolUseId") if isinstance(value, dict) else None
        if shape.part is Part.CALL:
            reading.call(call_id)
        elif shape.part is Part.RESULT:
            reading.result(call_id)
    reading.require(known)


def _uncounted(_value: JSON, _texts: list[str]) -> bool:
    """Accept what no text can stand for: media, what is encrypted, where a citation comes from."""
    return True


_read_text_block: Final = fields_of(("text", read_string))
_read_texts: Final = members_of({"text": read_string})
_read_source: Final = members_of(
    {
        "text": read_string,
        "content": _read_texts,
        "bytes": _uncounted,
        "s3Location": _uncounted,
    }
)
_read_document: Final = fields_of(
    ("name", read_text), ("context", read_text), ("source", _read_source)
)
_read_search_result: Final = fields_of(
    ("title", read_text), ("source", read_text), ("content", _read_texts)
)
_read_tool_result: Final = fields_of(
    (
        "content",
        members_of(
            {
                "text": read_string,
                "json": read_any,
                "image": _uncounted,
                "video": _uncounted,
                "document": _read_document,
                "searchResult": _read_search_result,
            }
        ),
    )
)


def _block(part: Part, key: str, read: Reader) -> tuple[str, Shape]:
    return key, Shape(part, ((key, read),))


_BLOCKS: Final[Mapping[str, Shape]] = MappingProxyType(
    dict(
        (
            _block(Part.SAID, "text", read_string),
            _block(Part.SAID, "image", _uncounted),
            _block(Part.SAID, "video", _uncounted),
            _block(Part.SAID, "audio", _uncounted),
            _block(Part.SAID, "document", _read_document),
            _block(Part.SAID, "searchResult", _read_search_result),
            _block(
                Part.SAID,
                "guardContent",
                members_of({"text": _read_text_block, "image": _uncounted}),
            ),
            _block(
                Part.SAID,
                "citationsContent",
                members_of({"content": _read_texts, "citations": _uncounted}),
            ),
            _block(
                Part.THOUGHT,
                "reasoningContent",
                members_of({"reasoningText": _read_text_block, "redactedContent": _uncounted}),
            ),
            _block(Part.CALL, "toolUse", fields_of(("name", read_string), ("input", read_any))),
            _block(Part.RESULT, "toolResult", _read_tool_result),
            _block(Part.NOTE, "cachePoint", _uncounted),
            _block(Part.NOTE, "toolAddition", fields_of(("tool", read_json))),
            _block(Part.NOTE, "toolRemoval", fields_of(("tool", read_json))),
        )
    )
)
# A message of nothing but text says the same in `chat`, and is read as that.
_OWN: Final = _BLOCKS.keys() - {"text"}
