"""Write the field tables that decode Kubernetes' protobuf requests, out of any Go client binary.

    python tools/protobuf_fields.py /usr/bin/kubectl > src/podwire/apiserver/protobuf_fields.json

Two facts lie in such a binary (64-bit ELF, not position-independent): the compressed file descriptors of
every API group (field numbers and types), and Go's own type descriptions with the struct tags (JSON names,
``omitempty``, inlined structs, and which fields are pointers, so that a zero says something).
"""

from __future__ import annotations

import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from podwire.wire.protobuf import fields as read_fields

PACKAGES = {
    "k8s.io.api.admissionregistration.v1", "k8s.io.api.apps.v1", "k8s.io.api.authentication.v1",
    "k8s.io.api.authorization.v1", "k8s.io.api.autoscaling.v1", "k8s.io.api.autoscaling.v2",
    "k8s.io.api.batch.v1", "k8s.io.api.certificates.v1", "k8s.io.api.coordination.v1", "k8s.io.api.core.v1",
    "k8s.io.api.discovery.v1", "k8s.io.api.events.v1", "k8s.io.api.networking.v1", "k8s.io.api.node.v1",
    "k8s.io.api.policy.v1", "k8s.io.api.rbac.v1", "k8s.io.api.scheduling.v1", "k8s.io.api.storage.v1",
    "k8s.io.apimachinery.pkg.apis.meta.v1",
}  # fmt: skip
SCALARS = {1: "d", 3: "i", 5: "i", 8: "t", 9: "s", 12: "b"}
REPEATED = 3
POINTER, STRUCT = 22, 25


_E = "apiextensions.v1."
BY_HAND = {
    # Its inlined half is spelled out in Go, so no Go type has these fields.
    "core.v1.EphemeralContainer": "1:^:ephemeralContainerCommon:core.v1.EphemeralContainerCommon "
    "2::targetContainerName:s",
    # Client binaries without the apiextensions clientset have no descriptor of these.
    f"{_E}CustomResourceDefinition": f"1::metadata:meta.v1.ObjectMeta 2::spec:{_E}CustomResourceDefinitionSpec "
    f"3::status:{_E}CustomResourceDefinitionStatus",
    f"{_E}CustomResourceDefinitionSpec": f"1:=:group:s 3:=:names:{_E}CustomResourceDefinitionNames 4:=:scope:s "
    f"7:*=:versions:{_E}CustomResourceDefinitionVersion 9:!:conversion:{_E}CustomResourceConversion "
    "10::preserveUnknownFields:t",
    f"{_E}CustomResourceDefinitionNames": "1:=:plural:s 2::singular:s 3:*:shortNames:s 4:=:kind:s 5::listKind:s "
    "6:*:categories:s",
    f"{_E}CustomResourceDefinitionVersion": f"1:=:name:s 2:=:served:t 3:=:storage:t "
    f"4:!:schema:{_E}CustomResourceValidation 5:!:subresources:{_E}CustomResourceSubresources "
    f"6:*:additionalPrinterColumns:{_E}CustomResourceColumnDefinition 7::deprecated:t "
    f"8:!:deprecationWarning:s 9:*:selectableFields:{_E}SelectableField",
    f"{_E}CustomResourceColumnDefinition": "1:=:name:s 2:=:type:s 3::format:s 4::description:s 5::priority:i "
    "6:=:jsonPath:s",
    f"{_E}CustomResourceConversion": f"1:=:strategy:s 2:!:webhook:{_E}WebhookConversion",
    f"{_E}WebhookConversion": f"2:!:clientConfig:{_E}WebhookClientConfig 3:*=:conversionReviewVersions:s",
    f"{_E}WebhookClientConfig": f"1:!:service:{_E}ServiceReference 2::caBundle:b 3:!:url:s",
    f"{_E}ServiceReference": "1:=:namespace:s 2:=:name:s 3:!:path:s 4:!:port:i",
    f"{_E}SelectableField": "1:=:jsonPath:s",
    f"{_E}CustomResourceValidation": f"1:!:openAPIV3Schema:{_E}JSONSchemaProps",
    f"{_E}CustomResourceSubresources": f"1:!:status:{_E}CustomResourceSubresourceStatus "
    f"2:!:scale:{_E}CustomResourceSubresourceScale",
    f"{_E}CustomResourceSubresourceStatus": "",
    f"{_E}CustomResourceSubresourceScale": "1:=:specReplicasPath:s 2:=:statusReplicasPath:s 3:!:labelSelectorPath:s",
    f"{_E}CustomResourceDefinitionStatus": f"1:*:conditions:{_E}CustomResourceDefinitionCondition "
    f"2::acceptedNames:{_E}CustomResourceDefinitionNames 3:*:storedVersions:s 4::observedGeneration:i",
    f"{_E}CustomResourceDefinitionCondition": "1:=:type:s 2:=:status:s 3::lastTransitionTime:meta.v1.Time "
    "4::reason:s 5::message:s 6::observedGeneration:i",
    f"{_E}ExternalDocumentation": "1::description:s 2::url:s",
    f"{_E}ValidationRule": "1:=:rule:s 2::message:s 3::messageExpression:s 4:!:reason:s 5::fieldPath:s "
    "6:!:optionalOldSelf:t",
    f"{_E}JSONSchemaPropsOrArray": f"1:!:schema:{_E}JSONSchemaProps 2:*:schemas:{_E}JSONSchemaProps",
    f"{_E}JSONSchemaPropsOrBool": f"1:=:allows:t 2:!:schema:{_E}JSONSchemaProps",
    f"{_E}JSONSchemaPropsOrStringArray": f"1:!:schema:{_E}JSONSchemaProps 2:*:strings:s",
    f"{_E}JSONSchemaProps": "1::id:s 2::$schema:s 3:!:$ref:s 4::description:s 5::type:s 6::format:s 7::title:s "
    f"8:!:default:{_E}JSON 9:!:maximum:d 10::exclusiveMaximum:t 11:!:minimum:d 12::exclusiveMinimum:t "
    "13:!:maxLength:i 14:!:minLength:i 15::pattern:s 16:!:maxItems:i 17:!:minItems:i 18::uniqueItems:t "
    f"19:!:multipleOf:d 20:*:enum:{_E}JSON 21:!:maxProperties:i 22:!:minProperties:i 23:*:required:s "
    f"24:!:items:{_E}JSONSchemaPropsOrArray 25:*:allOf:{_E}JSONSchemaProps 26:*:oneOf:{_E}JSONSchemaProps "
    f"27:*:anyOf:{_E}JSONSchemaProps 28:!:not:{_E}JSONSchemaProps 29:%:properties:{_E}JSONSchemaProps "
    f"30:!:additionalProperties:{_E}JSONSchemaPropsOrBool 31:%:patternProperties:{_E}JSONSchemaProps "
    f"32:%:dependencies:{_E}JSONSchemaPropsOrStringArray 33:!:additionalItems:{_E}JSONSchemaPropsOrBool "
    f"34:%:definitions:{_E}JSONSchemaProps 35:!:externalDocs:{_E}ExternalDocumentation "
    f"36:!:example:{_E}JSON 37::nullable:t 38:!:x-kubernetes-preserve-unknown-fields:t "
    "39::x-kubernetes-embedded-resource:t 40::x-kubernetes-int-or-string:t "
    "41:*:x-kubernetes-list-map-keys:s 42:!:x-kubernetes-list-type:s 43:!:x-kubernetes-map-type:s "
    f"44:*:x-kubernetes-validations:{_E}ValidationRule",
}


class GoField(NamedTuple):
    """One field of a Go struct, as its tags and type tell it."""

    json_name: str
    omits_empty: bool
    inline: bool
    pointer: bool


class Field(NamedTuple):
    """One field of a message, as its file descriptor tells it."""

    number: int
    name: str
    repeated: bool
    type: str  # a letter, or a message name


def main() -> None:
    """Read the binary named on the command line and print the tables."""
    binary = Path(sys.argv[1]).read_bytes()
    messages: dict[str, list[Field]] = {}
    entries: dict[str, str] = {}
    for descriptor in descriptors(binary):
        package = descriptor[2][0].decode()
        if package in PACKAGES:
            for message in descriptor.get(4, []):
                read_message(package, message, messages, entries)
    structs = dict(go_structs(binary))
    tables = {}
    for name, message_fields in sorted(messages.items()):
        key = (name.rpartition(".")[2], frozenset((f.number, f.name) for f in message_fields))
        tags = structs.get(key)
        if tags is None:
            if message_fields:
                print(f"no Go type for {name}", file=sys.stderr)
            tags = {}
        tables[short(name)] = " ".join(line(f, tags.get(f.number), entries) for f in message_fields)
    print(json.dumps(dict(sorted((tables | BY_HAND).items())), indent=0))


def short(name: str) -> str:
    """Return "core.v1.Pod" for "k8s.io.api.core.v1.Pod"."""
    for prefix in ("k8s.io.apimachinery.pkg.apis.", "k8s.io.apimachinery.pkg.", "k8s.io.api."):
        name = name.removeprefix(prefix)
    return name.removeprefix("util.").removeprefix("api.")


def line(field: Field, go: GoField | None, entries: dict[str, str]) -> str:
    """Return "NUMBER:FLAGS:NAME:TYPE"; flags: * repeated, % map, ^ inlined, ! pointer, = never omitted."""
    type, flags = field.type, ""
    if type in entries:
        type, flags = entries[type], "%"
    elif field.repeated:
        flags = "*"
    name = field.name
    if go is not None:
        name = go.json_name or name
        flags += ("^" if go.inline else "") + ("!" if go.pointer else "") + ("" if go.omits_empty else "=")
    return f"{field.number}:{flags}:{name}:{short(type)}"


Raw = dict[int, list[Any]]


def parse(content: bytes) -> Raw:
    """Return a message's fields by number."""
    found: Raw = {}
    for number, _, value in read_fields(content):
        found.setdefault(number, []).append(value)
    return found


def descriptors(binary: bytes) -> Iterator[Raw]:
    """Yield every FileDescriptorProto that is embedded in the binary."""
    for m in re.finditer(rb"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff", binary):
        try:
            content = zlib.decompressobj(31).decompress(binary[m.start() : m.start() + (1 << 20)])
            found = parse(content)
        except (zlib.error, ValueError):
            continue
        if found.get(1) and found.get(2) and bytes(found[1][0]).endswith(b".proto"):
            yield found


def read_message(package: str, content: bytes, messages: dict[str, list[Field]], entries: dict[str, str]) -> None:
    """Add a DescriptorProto's fields; map entries go to ``entries`` as their value's type."""
    raw = parse(content)
    full = f"{package}.{raw[1][0].decode()}"
    for nested in raw.get(3, []):
        inner: dict[str, list[Field]] = {}
        read_message(full, nested, inner, entries)
        for name, inner_fields in inner.items():
            entries[name] = next(f.type for f in inner_fields if f.number == 2)
    messages[full] = [read_field(f) for f in raw.get(2, [])]


def read_field(content: bytes) -> Field:
    """Return what a FieldDescriptorProto says."""
    raw = parse(content)
    kind = raw[5][0]
    type = raw[6][0].decode().lstrip(".") if kind == 11 else SCALARS[kind]
    return Field(raw[3][0], raw[1][0].decode(), raw[4][0] == REPEATED, type)


class Image:
    """The read-only data of an ELF binary, read as Go lays out its types (abi.Type)."""

    def __init__(self, binary: bytes) -> None:
        table, size, count, names = self._header(binary)
        self.base, self.data = 0, b""
        sections = [struct.unpack_from("<IIQQQQ", binary, table + i * size) for i in range(count)]
        strings = sections[names][4]
        for section in sections:
            start = strings + section[0]
            if binary[start : binary.index(b"\0", start)] == b".rodata":
                self.base = section[3]
                self.data = binary[section[4] : section[4] + section[5]]

    @staticmethod
    def _header(binary: bytes) -> tuple[int, int, int, int]:
        (table,) = struct.unpack_from("<Q", binary, 0x28)
        size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
        return table, size, count, names

    def name(self, address: int) -> tuple[str, str]:
        """Return a Go name and its tag."""
        flags, at = self.data[address - self.base], address - self.base + 1
        text, at = self._text(at)
        tag, _ = self._text(at) if flags & 2 else ("", at)
        return text, tag

    def _text(self, at: int) -> tuple[str, int]:
        length = shift = 0
        while True:
            byte = self.data[at]
            at, length, shift = at + 1, length | (byte & 127) << shift, shift + 7
            if byte < 128:
                return self.data[at : at + length].decode(), at + length

    def holds(self, address: int) -> bool:
        """Return whether an address lies in this section."""
        return self.base <= address < self.base + len(self.data)

    def kind(self, type: int) -> int:
        """Return the reflect.Kind of a type."""
        return self.data[type - self.base + 23] & 31


def go_structs(binary: bytes) -> Iterator[tuple[tuple[str, frozenset[tuple[int, str]]], dict[int, GoField]]]:
    """Yield each struct with protobuf tags: its name and fields, and what its tags say by number."""
    image = Image(binary)
    for at in range(0, len(image.data) - 96, 8):
        if image.data[at + 23] & 31 != STRUCT:
            continue
        first, length, capacity = struct.unpack_from("<QQQ", image.data, at + 56)
        if not (0 < length < 200 and length == capacity and image.holds(first)):
            continue
        try:
            tags = dict(struct_fields(image, first, length))
            (offset,) = struct.unpack_from("<i", image.data, at + 40)
            text, _ = image.name(image.base + offset)
        except (ValueError, IndexError, struct.error):
            continue
        if tags:
            known = frozenset((number, proto) for number, (proto, _) in tags.items())
            yield (text.rpartition(".")[2], known), {n: go for n, (_, go) in tags.items()}


def struct_fields(image: Image, first: int, length: int) -> Iterator[tuple[int, tuple[str, GoField]]]:
    """Yield (protobuf number, (protobuf name, field)) for the tagged fields of a struct."""
    for i in range(length):
        name, type, _ = struct.unpack_from("<QQQ", image.data, first - image.base + 24 * i)
        if not (image.holds(name) and image.holds(type)):
            raise ValueError("not a struct")
        _, tag = image.name(name)
        proto = re.search(r'protobuf:"\w+,(\d+)(?:,\w+)?,name=(\w+)', tag)
        shown = re.search(r'json:"([^",]*)([^"]*)"', tag)
        if proto and shown:
            go = GoField(shown[1], "omitempty" in shown[2], "inline" in shown[2], image.kind(type) == POINTER)
            yield int(proto[1]), (proto[2], go)


if __name__ == "__main__":
    main()
