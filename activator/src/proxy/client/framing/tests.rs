//! The rules as tables. Every row is followed whole, byte by byte and cut in two at each place: the outcome
//! must not depend on how the network cuts a stream.

use super::*;

/// Bytes that pass, and the rule that is broken behind them.
type Outcome = (usize, Option<(Refusal, bool)>);

/// Follows a stream that comes in pieces, as the guard does: what has not passed comes again.
fn follow<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut framing, mut held, mut total) = (Framing::new(), Vec::new(), 0);
    for piece in pieces {
        held.extend_from_slice(piece);
        match framing.follow(&held) {
            Ok(passed) => {
                total += passed;
                held.drain(..passed);
            }
            Err(Broken { passed, rule, in_body }) => return (total + passed, Some((rule, in_body))),
        }
    }
    (total, None)
}

#[track_caller]
fn check(stream: &str, passes: &str, rule: Option<(Refusal, bool)>) {
    let (stream, expected) = (stream.as_bytes(), (passes.len(), rule));
    assert!(stream.starts_with(passes.as_bytes()));
    assert_eq!(follow([stream]), expected, "{:?}", stream.escape_ascii().to_string());
    assert_eq!(follow(stream.chunks(1)), expected, "byte by byte: {:?}", stream.escape_ascii().to_string());
    for cut in 1..stream.len() {
        let (begin, end) = stream.split_at(cut);
        assert_eq!(follow([begin, end]), expected, "cut at {cut}: {:?}", stream.escape_ascii().to_string());
    }
}

#[test]
fn good_requests_pass_one_after_the_other() {
    for stream in [
        "GET / HTTP/1.1\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\nGET HTTPS://a HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 0005 \r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-LENGTH:0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding:\tChunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b c\"\r\nhello\r\n00a ;b\r\n0123456789\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "GET /\"{}|^?\\` HTTP/1.1\r\nX:\r\nY: caf\u{e9}\t!\r\n\r\n",
    ] {
        check(stream, stream, None);
    }
}

#[test]
fn a_head_passes_when_it_is_whole() {
    check("GET / HTTP/1.1\r\nHost: a\r\n", "", None);
    check(
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        None,
    );
}

#[test]
fn http2_and_tunnels_are_left_alone() {
    let stream = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0";
    check(stream, stream, None);
    check("PRI * HTTP/2.0\r\n\r\nXM\r\n\r\n", "", Some((Refusal::UnknownVersion, false)));
    // Only at the start of a connection.
    let second = format!("GET / HTTP/1.1\r\n\r\n{stream}");
    check(&second, "GET / HTTP/1.1\r\n\r\n", Some((Refusal::UnknownVersion, false)));
    let mut framing = Framing::new();
    framing.switch();
    assert_eq!(framing.follow(b"\n\n\0"), Ok(3));
}

#[test]
fn heads_that_break_a_rule_do_not_pass() {
    use Refusal as R;
    for (head, rule) in [
        ("GET / HTTP/1.1\n\n", R::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", R::BareLf),
        ("\nGET / HTTP/1.1\r\n\r\n", R::BareLf),
        ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", R::BareCr),
        ("GET / HTTP/1.1\r\nX: a\r\r\n\r\n", R::BareCr),
        ("GET  / HTTP/1.1\r\n\r\n", R::RequestLine),
        ("GET / HTTP/1.1 \r\n\r\n", R::RequestLine),
        ("GET /\r\n\r\n", R::RequestLine),
        ("GET\t/\tHTTP/1.1\r\n\r\n", R::RequestLine),
        ("G@T / HTTP/1.1\r\n\r\n", R::Method),
        ("GET / http/1.1\r\n\r\n", R::Version),
        ("GET / HTTP/1.10\r\n\r\n", R::Version),
        ("GET / HTTP/1.2\r\n\r\n", R::UnknownVersion),
        ("CONNECT a:80 HTTP/1.1\r\n\r\n", R::Connect),
        ("GET * HTTP/1.1\r\n\r\n", R::Asterisk),
        ("GET /#a HTTP/1.1\r\n\r\n", R::Fragment),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n", R::TargetCharacter),
        ("GET /<a> HTTP/1.1\r\n\r\n", R::TargetCharacter),
        ("GET /` HTTP/1.1\r\n\r\n", R::TargetCharacter),
        ("GET /?\" HTTP/1.1\r\n\r\n", R::TargetCharacter),
        ("GET /a\tb HTTP/1.1\r\n\r\n", R::TargetCharacter),
        ("GET ?a HTTP/1.1\r\n\r\n", R::Target),
        ("GET a HTTP/1.1\r\n\r\n", R::Target),
        ("GET http:// HTTP/1.1\r\n\r\n", R::Target),
        ("GET http:///a HTTP/1.1\r\n\r\n", R::Target),
        ("GET http://a@b/ HTTP/1.1\r\n\r\n", R::Target),
        ("GET http://a:b/ HTTP/1.1\r\n\r\n", R::Target),
        ("GET http://[::1/ HTTP/1.1\r\n\r\n", R::Target),
        ("GET ftp://a/ HTTP/1.1\r\n\r\n", R::Target),
        ("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", R::Folded),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", R::Folded),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", R::NoColon),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", R::FieldName),
        ("GET / HTTP/1.1\r\n: a\r\n\r\n", R::FieldName),
        ("GET / HTTP/1.1\r\nX\0: a\r\n\r\n", R::FieldName),
        ("GET / HTTP/1.1\r\nX: \0\r\n\r\n", R::FieldValue),
        ("GET / HTTP/1.1\r\nX: \u{7f}\r\n\r\n", R::FieldValue),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", R::RepeatedContentLength),
        ("GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", R::ContentLength),
        ("GET / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", R::ContentLength),
        ("GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", R::ContentLength),
        ("GET / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", R::ContentLength),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", R::TransferEncoding),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n\r\n", R::TransferEncoding),
        (
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            R::TransferEncoding,
        ),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", R::OldTransferEncoding),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", R::TwoLengths),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", R::TwoLengths),
    ] {
        check(head, "", Some((rule, false)));
        let second = format!("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab{head}");
        check(&second, "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", Some((rule, false)));
    }
}

#[test]
fn bodies_that_break_a_rule_pass_up_to_it() {
    use Refusal as R;
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (good, bad, rule) in [
        ("", "\r\n", R::ChunkSize),
        ("", " 5\r\n", R::ChunkSize),
        ("", "-5\r\n", R::ChunkSize),
        ("5", "x\r\n", R::ChunkSize),
        ("5", "\n", R::ChunkSize),
        ("5 ", "\r\n", R::ChunkSize),
        ("0000000000000000", "5\r\n", R::ChunkSize),
        ("5;a", "\n", R::ChunkExtension),
        ("5;a", "\0\r\n", R::ChunkExtension),
        ("5\r", "x", R::BareCr),
        ("5\r\nhello", "x\r\n", R::ChunkEnd),
        ("5\r\nhello\r", "x", R::ChunkEnd),
        ("5\r\nhello", "\n0\r\n\r\n", R::ChunkEnd),
        ("0\r\n", "\n", R::FieldName),
        ("0\r\n", " X: 1\r\n", R::FieldName),
        ("0\r\nX", " : 1\r\n", R::FieldName),
        ("0\r\nX: 1", "\n\r\n", R::BareLf),
        ("0\r\nX: 1", "\0\r\n", R::FieldValue),
        ("0\r\nX: 1\r", "\r\n", R::BareCr),
        ("0\r\n\r", "x", R::BareCr),
    ] {
        check(&format!("{head}{good}{bad}"), &format!("{head}{good}"), Some((rule, true)));
    }
}

#[test]
fn heads_are_bounded() {
    let long = "a".repeat(MAX_HEAD);
    for (head, rule) in [
        (format!("GET /{long}"), Refusal::TargetTooLong),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), Refusal::TargetTooLong),
        (format!("GET / HTTP/1.1\r\nX: {long}"), Refusal::HeadTooLong),
        (format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), Refusal::HeadTooLong),
        (format!("{long}{long}"), Refusal::TargetTooLong),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(MAX_FIELDS + 1)), Refusal::TooManyFields),
    ] {
        assert_eq!(follow([head.as_bytes()]), (0, Some((rule, false))));
        assert_eq!(follow(head.as_bytes().chunks(1000)), (0, Some((rule, false))));
    }
    let most = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(MAX_FIELDS));
    assert_eq!(follow([most.as_bytes()]), (most.len(), None));
}

#[test]
fn who_speaks_another_protocol_is_told_at_once() {
    for begin in ["\x16\x03\x01\x02", "\0", " GET"] {
        assert_eq!(follow([begin.as_bytes()]), (0, Some((Refusal::Method, false))));
    }
}

#[test]
fn every_refusal_is_on_the_list_in_its_place() {
    for (place, refusal) in Refusal::ALL.iter().enumerate() {
        assert_eq!(*refusal as usize, place);
    }
}
