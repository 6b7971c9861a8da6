import pytest

from proxy.runtime.http_message import (
    MAX_HEAD_BYTES,
    BadRequest,
    Request,
    Response,
    encode_response,
    take_request,
)


def take(data):
    buffer = bytearray(data)
    return take_request(buffer, "192.0.2.1"), bytes(buffer)


def test_a_request_is_taken_off_the_front_and_the_next_one_stays():
    request, rest = take(b"GET /a%20b?x=1 HTTP/1.1\r\nAccept: a\r\nACCEPT:b\r\n\r\nGET / HT")
    assert request == Request(
        "GET", "/a b", "x=1", {"accept": "a, b"}, "192.0.2.1", b"", keep_alive=True
    )
    assert request.header("accept") == "a, b"
    assert request.header("host") == ""
    assert rest == b"GET / HT"


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HTTP/1.1\r\n", b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"],
)
def test_an_incomplete_request_leaves_the_buffer_alone(data):
    assert take(data) == (None, data)


def test_a_body_of_known_length_belongs_to_the_request():
    request, rest = take(b"PUT /v HTTP/1.1\r\nContent-Length: 2\r\n\r\n45GET")
    assert (request.body, rest) == (b"45", b"GET")


@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_the_version_and_the_connection_header_decide_about_keep_alive(data, keep_alive):
    assert take(data)[0].keep_alive is keep_alive


def test_an_absolute_target_is_reduced_to_its_path():
    assert take(b"GET http://node:10256/livez HTTP/1.1\r\n\r\n")[0].path == "/livez"
    assert take(b"GET http://node:10256 HTTP/1.1\r\n\r\n")[0].path == "/"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"x" * (MAX_HEAD_BYTES + 1), 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_with_a_status(data, status):
    with pytest.raises(BadRequest) as caught:
        take(data)
    assert caught.value.status == status


def test_a_response_has_its_headers_in_order_and_its_length():
    response = Response(503, b"{}", "application/json", (("X-A", "1"),))
    head, _, body = encode_response(response, keep_alive=True).partition(b"\r\n\r\n")
    first, kind, extra, date, length = head.decode().split("\r\n")
    assert (first, kind, extra, length) == (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        "X-A: 1",
        "Content-Length: 2",
    )
    assert date.endswith(" GMT")
    assert body == b"{}"


def test_the_answer_to_head_has_the_length_but_no_body():
    data = encode_response(Response(200, b"body"), keep_alive=False, head_only=True)
    assert data.endswith(b"Content-Length: 4\r\nConnection: close\r\n\r\n")
