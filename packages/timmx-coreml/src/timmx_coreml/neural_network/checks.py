"""Refuses fields and values that the schema does not define; a newer Core ML may define them."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from timmx_coreml.errors import not_evaluated


def refuse_unknown(message: Any, owner: str) -> None:
    """Check a message and all messages in it.

    Raises:
        UnsupportedError: it has an unknown field, or an enumeration has an unknown value; the error names the layer.
    """
    unknown = [field.field_number for field in UnknownFieldSet(message)]
    if unknown:
        raise not_evaluated(
            f"{owner} has the field {unknown[0]} in its {message.DESCRIPTOR.name}, which timmx does not know"
        )
    for field, value in message.ListFields():
        if field.enum_type is not None:
            for number in [value] if isinstance(value, int) else value:
                if number not in field.enum_type.values_by_number:
                    raise not_evaluated(f"{owner} has {field.name} = {number}, which timmx does not know")
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for part in [value] if isinstance(value, Message) else value:
                is_layer = field.message_type.name == "NeuralNetworkLayer"
                refuse_unknown(part, f"layer {part.name!r}" if is_layer else owner)
