//! HTTP/2 used against us: the connection is ended, what reaches a pod is bounded, and nobody else notices.

use std::time::Duration;

use pilotlight_crds::FunctionSpec;
use tokio::io::AsyncWriteExt;

use super::{
    Bed,
    bed::{Pod, after},
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Heard, PING, PRIORITY,
        REFUSED_STREAM, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, get, head, post, streams,
    },
};

async fn bed_with_pod(pause: Duration) -> (Bed, Pod) {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(pause)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, pod)
}

/// Sends `opening`, and then rounds of frames as fast as they are taken, until the connection is ended. While it
/// goes on, and after it, others are served.
async fn flood(bed: &Bed, opening: &[u8], mut round: impl FnMut() -> Vec<u8>) -> Heard {
    let Raw { mut reader, mut writer } = Raw::connect(bed, &[]).await;
    let write = async {
        let mut taken = writer.write_all(opening).await.is_ok();
        while taken {
            let rounds: Vec<_> = (0..100).flat_map(|_| round()).collect();
            taken = writer.write_all(&rounds).await.is_ok();
        }
    };
    let others = async { assert_eq!(bed.get("/").await.status(), 200) };
    tokio::join!(write, reader.until_end(), others);
    assert_eq!(bed.get("/").await.status(), 200);
    bed.until_idle().await;
    reader.heard
}

#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    let (bed, pod) = bed_with_pod(Duration::ZERO).await;
    let junk = frame(0x77, 0, 0, b"nobody knows this type");
    let floods: [(&str, Vec<u8>, Vec<u8>); 9] = [
        ("ping", vec![], frame(PING, 0, 0, &[0; 8])),
        ("acknowledged pings", vec![], frame(PING, ACK, 0, &[0; 8])),
        // SETTINGS_INITIAL_WINDOW_SIZE, which changes the windows of all streams.
        ("settings", vec![], frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("priority", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("window update", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown", vec![], junk),
        ("empty data", post(1), frame(DATA, 0, 1, &[])),
        ("padded data", post(1), frame(DATA, 0x8, 1, &[3, 0, 0, 0])),
        (
            "continuation",
            frame(HEADERS, 0, 1, &head("GET")),
            // A literal header without indexing, over and over, without END_HEADERS.
            frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"),
        ),
    ];
    for (what, opening, round) in floods {
        let asked = pod.asked();
        let heard = flood(&bed, &opening, || round.clone()).await;
        let allowed = [None, Some(ENHANCE_YOUR_CALM)].contains(&heard.goaway);
        assert!(allowed, "{what}: {heard:?}");
        // Two are `flood`'s own.
        assert!(pod.asked() - asked <= 2 + 1, "{what}: {} reached the pod", pod.asked() - asked);
    }
}

#[tokio::test]
async fn a_client_that_reads_is_told_to_calm_down() {
    let (bed, _pod) = bed_with_pod(Duration::ZERO).await;
    let mut raw = Raw::connect(&bed, &[]).await;
    // One more than the budget allows, after SETTINGS and their ACK: there is nothing unread behind it, for
    // which the kernel would reset the connection before the GOAWAY is read.
    for _ in 0..1_000 {
        if raw.writer.write_all(&frame(PING, 0, 0, &[0; 8])).await.is_err() {
            break;
        }
    }
    raw.reader.until_end().await;
    assert_eq!(raw.reader.heard.goaway, Some(ENHANCE_YOUR_CALM), "{:?}", raw.reader.heard);
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_few_reach_a_pod() {
    let (bed, pod) = bed_with_pod(Duration::from_millis(20)).await;
    let mut streams = streams();
    let heard = flood(&bed, &[], || {
        let stream = streams.next().unwrap();
        [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    })
    .await;
    assert!([None, Some(ENHANCE_YOUR_CALM)].contains(&heard.goaway), "{heard:?}");
    assert!(pod.asked() <= 100, "{} reached the pod", pod.asked());
}

#[tokio::test]
async fn slow_rapid_resets_end_too() {
    let (bed, pod) = bed_with_pod(Duration::from_secs(5)).await;
    let Raw { mut reader, mut writer } = Raw::connect(&bed, &[]).await;
    // One by one: h2 looks at each stream before it is reset, and does not count it.
    let write = async {
        for stream in streams() {
            let round = [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])];
            for frame in round {
                if writer.write_all(&frame).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::join!(write, reader.until_end());
    assert!(pod.asked() <= 2_100, "{} reached the pod", pod.asked());
    bed.until_idle().await;
}

#[tokio::test]
async fn resets_that_a_client_provokes_end_the_connection() {
    let (bed, pod) = bed_with_pod(Duration::from_millis(20)).await;
    let mut streams = streams();
    // A window beyond 2^31-1 is an error of the stream, which we have to reset (RFC 9113, section 6.9.1).
    let heard = flood(&bed, &[], || {
        let stream = streams.next().unwrap();
        [get(stream), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
    })
    .await;
    assert!([None, Some(ENHANCE_YOUR_CALM)].contains(&heard.goaway), "{heard:?}");
    assert!(pod.asked() <= 210, "{} reached the pod", pod.asked());
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_reach_no_pod() {
    let (bed, pod) = bed_with_pod(Duration::from_millis(500)).await;
    let mut raw = Raw::connect(&bed, &[]).await;
    let opened: Vec<_> = streams().take(200).collect();
    let all: Vec<_> = opened.iter().flat_map(|stream| get(*stream)).collect();
    raw.writer.write_all(&all).await.unwrap();
    while raw.reader.heard.answered.len() < 100 {
        raw.reader.next().await.expect("the connection lives");
    }
    let refused: Vec<_> = raw.reader.heard.resets.iter().collect();
    assert_eq!(refused.len(), 100);
    assert!(refused.iter().all(|(_, code)| **code == REFUSED_STREAM), "{refused:?}");
    assert_eq!(pod.asked(), 100);
}

/// An HPACK string literal without Huffman coding, whose length is a 7-bit prefix integer.
fn literal(length: usize) -> Vec<u8> {
    let mut string = vec![0x7f];
    let mut rest = length - 0x7f;
    while rest >= 128 {
        string.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    string.push(rest as u8);
    string.extend(vec![b'x'; length]);
    string
}

#[tokio::test]
async fn an_hpack_bomb_ends_the_connection_and_reaches_no_pod() {
    let (bed, pod) = bed_with_pod(Duration::ZERO).await;
    // A header of 3 KiB goes into the dynamic table; each further byte of the block names it once more.
    let mut block = head("GET");
    block.extend([0x40, 1, b'a']);
    block.extend(literal(3_000));
    block.extend([0xbe; 4_000]);
    let mut raw = Raw::connect(&bed, &[]).await;
    raw.writer.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
    raw.reader.until_end().await;
    assert_eq!(raw.reader.heard.goaway, Some(ENHANCE_YOUR_CALM), "{:?}", raw.reader.heard);
    assert_eq!(pod.asked(), 0);
}

#[tokio::test]
async fn a_header_list_that_is_too_large_is_refused_and_the_connection_lives() {
    let (bed, pod) = bed_with_pod(Duration::ZERO).await;
    let mut raw = Raw::connect(&bed, &[]).await;
    let mut block = head("GET");
    for _ in 0..6 {
        block.extend([0x00, 1, b'a']);
        block.extend(literal(12_000));
    }
    let (first, rest) = block.split_at(16_384);
    let mut frames = frame(HEADERS, END_STREAM, 1, first);
    let chunks: Vec<_> = rest.chunks(16_384).collect();
    for (n, chunk) in chunks.iter().enumerate() {
        let flags = if n + 1 == chunks.len() { END_HEADERS } else { 0 };
        frames.extend(frame(CONTINUATION, flags, 1, chunk));
    }
    frames.extend(get(3));
    raw.writer.write_all(&frames).await.unwrap();
    while !raw.reader.heard.answered.contains(&3) {
        raw.reader.next().await.expect("the connection lives");
    }
    assert!(raw.reader.heard.answered.contains(&1), "431: {:?}", raw.reader.heard);
    assert_eq!(pod.asked(), 1);
}
