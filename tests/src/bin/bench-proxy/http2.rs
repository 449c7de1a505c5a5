//! Requests over HTTP/2 connections, several streams each.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    drive::Order,
    http1,
    tally::{Tally, Window},
};

/// Each stream's place is taken by the next request when it has its answer.
pub(crate) async fn closed(order: &Order, streams: u32) -> Result<Window> {
    let tally = Arc::new(Tally::new()?);
    let mut tasks = JoinSet::new();
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let stream = TcpStream::connect(order.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        connections.spawn(connection);
        for _ in 0..streams {
            let (sender, tally, order) = (sender.clone(), Arc::clone(&tally), order.clone());
            tasks.spawn(requests(sender, tally, order));
        }
    }
    let window = tally.window(order.duration(), order.pid).await?;
    http1::finish(tasks).await?;
    Ok(window)
}

async fn requests(mut sender: SendRequest<Empty<Bytes>>, tally: Arc<Tally>, order: Order) -> Result<()> {
    let uri: http::Uri = format!("http://{}/{}", order.host, order.bytes).parse()?;
    while !tally.ended() {
        let began = Instant::now();
        let request = Request::get(uri.clone()).header("user-agent", "bench").body(Empty::new())?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == StatusCode::OK, "answered with {response:?}");
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        tally.done(began);
    }
    Ok(())
}
