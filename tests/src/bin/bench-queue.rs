//! Twenty pods of this process, each of which may do one thing at a time, behind a real activator: how long
//! requests take below capacity, beside an ideal central queue with the same requests; how much useful work is
//! done above it; and what another function notices. Run by `cargo xtask bench queue`.

#![allow(clippy::print_stdout)] // the result

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

const PODS: usize = 20;
/// Mean time of a service.
const MEAN: Duration = Duration::from_millis(50);
/// Services for which a client waits.
const DEADLINE: u32 = 10;
/// Time until overload is noticed and the queue has turned.
const SETTLING: Duration = Duration::from_secs(5);
/// Requests a second to the function beside the flood.
const TRICKLE: f64 = 100.0;
/// What is asked of the pods, as a share of what they can do.
const LOADS: [f64; 4] = [0.9, 1.05, 1.3, 3.0];
/// How much longer the slowest requests of another function may take beside a flood: both share the cores.
const BESIDE: f64 = 1.5;
/// With what a pod says how long it took, in microseconds.
const TOOK: &str = "took-us";

/// The central queue on real sockets
#[derive(Debug, Parser)]
struct Args {
    /// The activator without Kubernetes: the example `standalone`
    #[arg(long)]
    activator: PathBuf,
    /// Seconds for each load
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// A request, and what became of it.
#[derive(Clone, Copy, Debug)]
struct Job {
    /// When it was due, from the beginning.
    due: Duration,
    service: Duration,
    /// From when it was due to its whole answer; `None`: it was refused.
    took: Option<Duration>,
}

impl Job {
    fn answered(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }
}

/// splitmix64: the same requests in every run.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// Lognormal with mean 1 and a squared coefficient of variation of 15.
    fn heavy_tailed(&mut self) -> f64 {
        let variance = 16.0_f64.ln();
        let normal = (2.0 * self.exponential()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
        (variance.sqrt() * normal - variance / 2.0).exp()
    }
}

/// Poisson arrivals at `rate` a second, for as long as `span`.
fn jobs(rate: f64, span: Duration, service: impl Fn(&mut Random) -> Duration) -> Vec<Job> {
    let mut random = Random(4);
    let mut due = Duration::ZERO;
    std::iter::from_fn(|| {
        due += Duration::from_secs_f64(random.exponential() / rate);
        (due < span).then(|| Job { due, service: service(&mut random), took: None })
    })
    .collect()
}

/// What an ideal central queue in order of arrival makes of the same requests.
fn ideal(jobs: &[Job]) -> Vec<Duration> {
    let mut free: BinaryHeap<_> = (0..PODS).map(|_| Reverse(Duration::ZERO)).collect();
    let mut answers = Vec::new();
    for job in jobs {
        let ends = free.pop().map_or(Duration::ZERO, |Reverse(at)| at).max(job.due) + job.service;
        free.push(Reverse(ends));
        answers.push(ends - job.due);
    }
    answers
}

/// What `share` of them are below.
fn quantile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort();
    times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default()
}

/// Work done for clients that still waited, as a share of what the pods could do after they had settled.
fn goodput(jobs: &[Job], span: Duration) -> f64 {
    let useful = |job: &Job| {
        let waited = job.took?.checked_sub(job.service).unwrap_or_default();
        let began = job.due + waited;
        let within = (began + job.service).min(span).saturating_sub(began.max(SETTLING));
        (waited <= DEADLINE * MEAN).then_some(within)
    };
    let work: Duration = jobs.iter().filter_map(useful).sum();
    work.as_secs_f64() / ((span - SETTLING).as_secs_f64() * PODS as f64)
}

/// A pod: does nothing for as many microseconds as the path says, and tells how long that was.
async fn pod() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(serve));
            tokio::spawn(connection);
        }
    });
    Ok(address)
}

async fn serve(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let began = Instant::now();
    let micros = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    tokio::time::sleep(Duration::from_micros(micros)).await;
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut response = Response::new(Empty::new());
    response.headers_mut().insert(TOOK, HeaderValue::from(took));
    Ok(response)
}

/// The activator and connections to it.
struct Bench {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    _activator: Child,
}

impl Bench {
    async fn start(activator: &PathBuf) -> Result<Arc<Self>> {
        let mut pods = Vec::new();
        for _ in 0..=PODS {
            pods.push(pod().await?.to_string());
        }
        let beside = pods.pop().unwrap_or_default();
        let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let child = Command::new(activator)
            .args(["--addr", &address.to_string(), "--concurrency", "1"])
            .args([format!("demo/queue={}", pods.join(",")), format!("demo/beside={beside}")])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting the activator")?;
        let bench = Arc::new(Self { address, idle: Mutex::default(), _activator: child });
        let began = Instant::now();
        while bench.ask("queue", Duration::ZERO).await.is_err() {
            anyhow::ensure!(began.elapsed() < Duration::from_secs(10), "the activator does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(bench)
    }

    /// How long the service took; `None`: it was refused.
    async fn ask(&self, function: &str, service: Duration) -> Result<Option<Duration>> {
        let idle = self.idle().pop();
        let mut sender = match idle {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        let request =
            Request::get(format!("/{}", service.as_micros())).header("host", format!("{function}.demo"));
        let response = sender.send_request(request.body(Empty::new())?).await?;
        let took = response.headers().get(TOOK).and_then(|took| took.to_str().ok()?.parse().ok());
        response.into_body().collect().await?;
        sender.ready().await?;
        self.idle().push(sender);
        Ok(took.map(Duration::from_micros))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Empty<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for each job when it is due, whatever becomes of those before.
    async fn run(self: &Arc<Self>, function: &'static str, jobs: Vec<Job>) -> Result<Vec<Job>> {
        let began = Instant::now();
        let mut tasks = Vec::new();
        for mut job in jobs {
            tokio::time::sleep_until((began + job.due).into()).await;
            let bench = Arc::clone(self);
            tasks.push(tokio::spawn(async move {
                if let Some(service) = bench.ask(function, job.service).await? {
                    job.service = service;
                    job.took = Some(began.elapsed().saturating_sub(job.due));
                }
                Ok::<_, anyhow::Error>(job)
            }));
        }
        let mut done = Vec::new();
        for task in tasks {
            done.push(task.await??);
        }
        Ok(done)
    }
}

/// What one load did.
struct Outcome {
    load: f64,
    jobs: Vec<Job>,
    span: Duration,
    /// What a function beside it noticed.
    beside: Vec<Job>,
}

impl Outcome {
    async fn of(bench: &Arc<Bench>, load: f64, span: Duration) -> Result<Self> {
        let rate = load * PODS as f64 / MEAN.as_secs_f64();
        let (jobs, beside) = tokio::join!(
            bench.run("queue", jobs(rate, span, |random| MEAN.mul_f64(random.heavy_tailed()))),
            bench.run("beside", trickle(span))
        );
        Ok(Self { load, jobs: jobs?, span, beside: beside? })
    }

    fn row(&self) -> String {
        let Self { load, jobs, span, .. } = self;
        let work: Duration = jobs.iter().map(|job| job.service).sum();
        let offered = work.as_secs_f64() / (span.as_secs_f64() * PODS as f64);
        let refused = jobs.iter().filter(|job| job.took.is_none()).count() as f64 / jobs.len() as f64;
        let in_order: Vec<_> = jobs.iter().zip(ideal(jobs)).map(|(job, took)| job.answered(took)).collect();
        let p99 = |jobs: &[Job]| millis(quantile(took(jobs), 0.99));
        format!(
            "| {load} | {offered:.2} | {} | {} | {:.3} | {:.3} | {:.1} % |",
            p99(jobs),
            p99(&in_order),
            goodput(jobs, *span),
            goodput(&in_order, *span),
            100.0 * refused
        )
    }
}

/// What has to be reached.
struct Bar {
    what: String,
    reached: f64,
    limit: f64,
    /// Whether more is worse.
    at_most: bool,
}

impl Bar {
    fn row(&self) -> String {
        let Self { what, reached, limit, at_most } = self;
        let met = if *at_most { reached <= limit } else { reached >= limit };
        let (sign, met) = (if *at_most { "≤" } else { "≥" }, if met { "met" } else { "missed" });
        format!("| {what} | {reached:.2} | {sign} {limit} | {met} |")
    }
}

fn trickle(span: Duration) -> Vec<Job> {
    jobs(TRICKLE, span, |_| Duration::ZERO)
}

fn took(jobs: &[Job]) -> Vec<Duration> {
    jobs.iter().filter_map(|job| job.took).collect()
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1_000.0)
}

fn bars(outcomes: &[Outcome], alone: &[Job]) -> Vec<Bar> {
    let p99 = |jobs: &[Job]| quantile(took(jobs), 0.99).as_secs_f64();
    let mut bars = Vec::new();
    for outcome in outcomes {
        let Outcome { load, jobs, span, beside } = outcome;
        if *load < 1.0 {
            let ideal = quantile(ideal(jobs), 0.99).as_secs_f64();
            let what = format!("p99 at {load}, to that of an ideal queue");
            bars.push(Bar { what, reached: p99(jobs) / ideal, limit: 1.1, at_most: true });
            continue;
        }
        let limit = if *load < 1.3 { 0.95 } else { 0.97 };
        let what = format!("goodput at {load}, to capacity");
        bars.push(Bar { what, reached: goodput(jobs, *span), limit, at_most: false });
        let what = format!("p99 of another function beside {load}, to that alone");
        bars.push(Bar { what, reached: p99(beside) / p99(alone), limit: BESIDE, at_most: true });
    }
    bars
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let span = Duration::from_secs(args.seconds) + SETTLING;
    let bench = Bench::start(&args.activator).await?;
    let alone = bench.run("beside", trickle(span)).await?;
    let mut outcomes = Vec::new();
    for load in LOADS {
        outcomes.push(Outcome::of(&bench, load, span).await?);
    }
    println!("| | reached | bar | |\n| --- | --- | --- | --- |");
    bars(&outcomes, &alone).iter().for_each(|bar| println!("{}", bar.row()));
    println!("\n| load | as it came | p99, ms | ideal, ms | goodput | in order of arrival | refused |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    outcomes.iter().for_each(|outcome| println!("{}", outcome.row()));
    println!("\n| another function | p50, ms | p99, ms |\n| --- | --- | --- |");
    let beside = outcomes.iter().map(|outcome| (format!("beside {}", outcome.load), &outcome.beside));
    for (what, jobs) in std::iter::once(("alone".to_owned(), &alone)).chain(beside) {
        anyhow::ensure!(took(jobs).len() == jobs.len(), "{what}: some were refused");
        let quantile = |share| millis(quantile(took(jobs), share));
        println!("| {what} | {} | {} |", quantile(0.5), quantile(0.99));
    }
    Ok(())
}
