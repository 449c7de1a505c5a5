//! The queue of one function under load, on a clock of its own: the real [`Slots`], Poisson arrivals, drawn
//! service times. Times in the tables are in mean service times.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use pilotlight_activator::slots::{HoldBounds, Slots, Ticket};

use crate::random::Random;

const PODS: usize = 20;
const MEAN: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(30);
const BOUNDS: HoldBounds = HoldBounds { requests: 1_000, bytes: u64::MAX };
/// What a client waits for.
const DEADLINE: f64 = 10.0;

/// How long services take.
#[derive(Clone, Copy, Debug)]
enum Service {
    Exponential,
    /// Lognormal; the squared coefficient of variation is 15.
    HeavyTailed,
}

/// A request: when it comes and how long its service takes, in mean service times.
#[derive(Clone, Copy)]
struct Job {
    arrives: f64,
    takes: f64,
}

impl Service {
    fn draw(self, random: &mut Random) -> f64 {
        match self {
            Self::Exponential => random.exponential(),
            Self::HeavyTailed => {
                let variance = 16.0_f64.ln();
                (variance.sqrt() * random.normal() - variance / 2.0).exp()
            }
        }
    }
}

/// Jobs at `load` of what the pods can do.
fn jobs(service: Service, load: f64, count: usize) -> Vec<Job> {
    jobs_by(4, service, load, count)
}

fn jobs_by(seed: u64, service: Service, load: f64, count: usize) -> Vec<Job> {
    let mut random = Random(seed);
    let mut arrives = 0.0;
    let mut draw = || {
        arrives += random.exponential() / (load * PODS as f64);
        Job { arrives, takes: service.draw(&mut random) }
    };
    (0..count).map(|_| draw()).collect()
}

/// How long each job took from arrival to answer in an ideal central queue in order of arrival, M/G/k, whose pods
/// answer from `opens` on.
fn ideal(jobs: &[Job], opens: f64) -> Vec<f64> {
    // Bits of non-negative floats order as the floats do.
    let mut free: BinaryHeap<Reverse<u64>> = (0..PODS).map(|_| Reverse(opens.to_bits())).collect();
    let mut one = |job: &Job| {
        let Reverse(at) = free.pop().unwrap();
        let ends = f64::from_bits(at).max(job.arrives) + job.takes;
        free.push(Reverse(ends.to_bits()));
        ends - job.arrives
    };
    jobs.iter().map(&mut one).collect()
}

/// The real queue: what became of each job; `None`: it was refused or given up.
struct Simulation<'a> {
    jobs: &'a [Job],
    start: Instant,
    slots: Slots<usize, usize>,
    /// Ends of services: when, which pod.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    waiting: Vec<Option<Ticket>>,
    took: Vec<Option<f64>>,
    overloaded: usize,
}

impl<'a> Simulation<'a> {
    fn run(jobs: &'a [Job]) -> Self {
        Self::from_zero(jobs, 0.0)
    }

    /// The pods answer from `opens` on.
    fn from_zero(jobs: &'a [Job], opens: f64) -> Self {
        let start = Instant::now();
        let slots = Slots::new(TIMEOUT);
        let (ends, waiting, took) = (BinaryHeap::new(), vec![None; jobs.len()], vec![None; jobs.len()]);
        let mut simulation = Self { jobs, start, slots, ends, waiting, took, overloaded: 0 };
        let (mut timed_out, mut opens) = (0, Some(opens));
        for (at, job) in jobs.iter().enumerate() {
            if let Some(opens) = opens.take_if(|opens| *opens <= job.arrives) {
                simulation.open(opens);
            }
            simulation.serve_until(job.arrives);
            // As `FunctionState` does, by a timer of each request.
            let patience = TIMEOUT.as_secs_f64() / MEAN.as_secs_f64();
            while jobs[timed_out].arrives + patience < job.arrives {
                simulation.give_up(timed_out);
                timed_out += 1;
            }
            simulation.arrive(at, *job);
        }
        simulation.serve_until(f64::INFINITY);
        simulation
    }

    fn open(&mut self, at: f64) {
        (0..PODS).for_each(|pod| self.slots.open(pod, 1));
        while let Some(grant) = self.slots.next(self.now(at)) {
            self.begin(grant.waiter, grant.pod, at);
        }
    }

    fn now(&self, at: f64) -> Instant {
        self.start + MEAN.mul_f64(at)
    }

    fn begin(&mut self, job: usize, pod: usize, at: f64) {
        let ends = at + self.jobs[job].takes;
        self.took[job] = Some(ends - self.jobs[job].arrives);
        self.ends.push(Reverse((ends.to_bits(), pod)));
    }

    fn arrive(&mut self, job: usize, Job { arrives, .. }: Job) {
        if let Some(pod) = self.slots.take(None) {
            self.begin(job, pod, arrives);
        } else if let Ok(place) = self.slots.hold(job, 1, BOUNDS, self.now(arrives)) {
            self.waiting[job] = Some(place.ticket);
        }
        self.overloaded += usize::from(self.slots.overloaded());
    }

    fn serve_until(&mut self, until: f64) {
        while let Some(&Reverse((at, pod))) = self.ends.peek()
            && f64::from_bits(at) <= until
        {
            self.ends.pop();
            let at = f64::from_bits(at);
            self.slots.put_back(&pod);
            let grant = self.slots.next(self.now(at));
            self.slots.expire(self.now(at));
            if let Some(grant) = grant {
                self.begin(grant.waiter, grant.pod, at);
            }
        }
    }

    fn give_up(&mut self, job: usize) {
        if let Some(ticket) = self.waiting[job] {
            self.slots.leave(ticket);
        }
    }
}

/// What 99 of 100 are below.
fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

/// Useful work as a share of what the pods can do: of jobs that arrive after `from` and wait no longer than
/// a client does.
fn goodput(jobs: &[Job], took: &[Option<f64>], from: f64) -> f64 {
    let until = jobs.last().unwrap().arrives;
    let useful = |(job, took): &(&Job, &Option<f64>)| {
        job.arrives >= from && took.is_some_and(|took| took - job.takes <= DEADLINE)
    };
    let work: f64 = jobs.iter().zip(took).filter(useful).map(|(job, _)| job.takes).sum();
    work / ((until - from) * PODS as f64)
}

#[test]
fn below_capacity_the_tail_is_that_of_an_ideal_central_queue() {
    for service in [Service::Exponential, Service::HeavyTailed] {
        let jobs = jobs(service, 0.9, 100_000);
        let Simulation { took, .. } = Simulation::run(&jobs);
        // What was given up counts as never answered.
        let real = p99(took.iter().map(|took| took.unwrap_or(f64::INFINITY)).collect());
        let ideal = p99(ideal(&jobs, 0.0));
        assert!(real <= 1.1 * ideal, "{service:?}: {real:.2} against {ideal:.2}");
        let lost = took.iter().filter(|took| took.is_none()).count();
        // With heavy tails there are minutes that look like overload, and are.
        assert!(lost <= jobs.len() / 250, "{service:?}: {lost} lost");
    }
}

#[test]
fn from_full_load_on_the_pods_work_for_clients_that_still_wait() {
    for service in [Service::Exponential, Service::HeavyTailed] {
        for load in [1.0, 1.05, 1.1, 1.2, 1.3, 2.0, 3.0] {
            // A minute's worth, three times.
            let good = (4..7).map(|seed| {
                let jobs = jobs_by(seed, service, load, (load * 1_200.0) as usize * PODS);
                goodput(&jobs, &Simulation::run(&jobs).took, 0.0)
            });
            let good = good.sum::<f64>() / 3.0;
            assert!(good >= 0.95, "{service:?} at {load}: {good:.3}");
        }
    }
}

#[test]
fn under_overload_the_pods_work_for_clients_that_still_wait() {
    for (service, load) in [
        (Service::Exponential, 1.3),
        (Service::HeavyTailed, 1.3),
        (Service::Exponential, 3.0),
        (Service::HeavyTailed, 3.0),
    ] {
        // A minute's worth, the first seconds included: until overload is noticed they are in order of arrival.
        let jobs = jobs(service, load, (load * 1_200.0) as usize * PODS);
        let Simulation { took, overloaded, .. } = Simulation::run(&jobs);
        let steady = goodput(&jobs, &took, 200.0);
        assert!(steady >= 0.97, "{service:?} at {load}: {steady:.3}");
        assert!(overloaded > jobs.len() * 9 / 10, "{service:?} at {load}: {overloaded}");
        let in_order: Vec<_> = ideal(&jobs, 0.0).into_iter().map(Some).collect();
        let in_order = goodput(&jobs, &in_order, 0.0);
        assert!(in_order < 0.1, "{service:?} at {load}: in order of arrival {in_order:.3}");
    }
}

#[test]
fn a_burst_loses_nobody_and_is_served_in_order() {
    // Forty requests for each pod at once, and then hardly any: two seconds of work.
    let burst = (0..40 * PODS).map(|at| Job { arrives: at as f64 * 1e-6, takes: 1.0 });
    let after = (0..400).map(|at| Job { arrives: 1.0 + f64::from(at) / 2.0, takes: 1.0 });
    let jobs: Vec<_> = burst.chain(after).collect();
    let Simulation { took, overloaded, .. } = Simulation::run(&jobs);
    assert_eq!(overloaded, 0);
    in_order(&took, &ideal(&jobs, 0.0));
}

#[test]
fn what_waits_for_a_cold_start_is_served_in_order_though_more_comes() {
    // Two and a half seconds without a pod, and then half of what the pods can do.
    let jobs = jobs(Service::Exponential, 0.5, 5_000);
    let Simulation { took, overloaded, .. } = Simulation::from_zero(&jobs, 50.0);
    assert_eq!(overloaded, 0);
    in_order(&took, &ideal(&jobs, 50.0));
}

fn in_order(took: &[Option<f64>], ideal: &[f64]) {
    for (real, ideal) in took.iter().zip(ideal) {
        assert!(real.is_some_and(|real| (real - ideal).abs() < 1e-6), "{real:?} against {ideal}");
    }
}

#[test]
fn when_overload_ends_all_is_well_within_seconds() {
    let mut jobs = jobs(Service::Exponential, 3.0, 36_000);
    let end = jobs.last().unwrap().arrives;
    jobs.extend(
        self::jobs(Service::Exponential, 0.5, 10_000)
            .iter()
            .map(|job| Job { arrives: end + job.arrives, ..*job }),
    );
    let Simulation { took, .. } = Simulation::run(&jobs);
    let settled = end + 2.0 / MEAN.as_secs_f64();
    let later = jobs.iter().zip(&took).filter(|(job, _)| job.arrives > settled);
    let waited = later.map(|(job, took)| took.unwrap() - job.takes).collect();
    assert!(p99(waited) < 1.0, "all are served, and hardly any waits");
}
