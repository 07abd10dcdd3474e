"""Protobuf by hand, as far as SciStream's messages go: strings and numbers, one after the other."""

TEXT, NUMBER = 2, 0


def varint(value):
    """A number in groups of seven bits, the lowest first; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(number, value):
    """A field that holds a string, even an empty one."""
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | TEXT) + varint(len(value)) + value


def number(number, value):
    """A field that holds an int32; proto3 leaves zeros out."""
    return varint(number << 3 | NUMBER) + varint(value) if value else b""


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """What a message holds: (number, value) in the order on the wire."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        if key & 7 == NUMBER:
            value, at = read_varint(data, at)
        elif key & 7 == TEXT:
            length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
            if len(value) != length:
                raise ValueError("the message ends within a field")
        else:
            raise ValueError(f"field {key >> 3} has wire type {key & 7}, which no message of SciStream has")
        yield key >> 3, value


def texts(data, number):
    """The strings of a repeated field."""
    return [value.decode() for n, value in fields(data) if n == number]


def request(uid, role="PROD", num_conn=1, rate=0):
    return (text(1, uid) if uid else b"") + (text(2, role) if role else b"") + number(3, num_conn) + number(4, rate)


def hello(uid, prod_listeners=(), role="PROD"):
    targets = b"".join(text(2, target) for target in prod_listeners)
    return (text(1, uid) if uid else b"") + targets + (text(3, role) if role else b"")


# The same fields under the same numbers.
update = hello


def release(uid):
    return text(1, uid) if uid else b""


def response(listeners=(), prod_listeners=()):
    return b"".join(text(1, l) for l in listeners) + b"".join(text(2, p) for p in prod_listeners)


def app_response(message, listeners=()):
    return text(1, message) + b"".join(text(2, l) for l in listeners)
