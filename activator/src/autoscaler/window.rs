//! What a function's load was, second by second: the memory of the autoscaler.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Length of one bucket.
const BUCKET: Duration = Duration::from_secs(1);

/// What happened in one second, counted from when the window began.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    ends: Instant,
    /// Requests × seconds that were in flight or held.
    request_seconds: f64,
    /// The most that were in flight or held at once.
    peak: u32,
    /// Requests that arrived.
    arrivals: u64,
}

/// The load of one function over the last seconds.
#[derive(Debug)]
pub struct Window {
    began: Instant,
    length: Duration,
    buckets: VecDeque<Bucket>,
    /// In flight and held since `since`.
    level: u32,
    since: Instant,
    /// When there was last anything in flight or held.
    last_busy: Option<Instant>,
    /// Since when there has been anything in flight or held without a break.
    busy_since: Option<Instant>,
}

impl Window {
    /// A window that remembers `length`, and knows nothing yet.
    pub fn new(length: Duration, now: Instant) -> Self {
        let length = length.max(BUCKET);
        Self {
            began: now,
            length,
            buckets: VecDeque::new(),
            level: 0,
            since: now,
            last_busy: None,
            busy_since: None,
        }
    }

    /// Changes how much is remembered.
    pub fn set_length(&mut self, length: Duration) {
        self.length = length.max(BUCKET);
    }

    /// A request arrived.
    pub fn arrive(&mut self, now: Instant) {
        self.arrive_many(1, now);
    }

    /// So many requests have arrived elsewhere, and may be answered already.
    pub fn arrive_many(&mut self, count: u32, now: Instant) {
        self.advance(now);
        self.bucket(now).arrivals += u64::from(count);
        if count > 0 {
            self.last_busy = Some(now);
        }
    }

    /// What was known is known no longer: the window begins anew, with the level as it is.
    pub fn forget(&mut self, now: Instant) {
        let level = self.level;
        *self = Self::new(self.length, now);
        self.set_level(level, now);
    }

    /// So many are in flight or held from now on.
    pub fn set_level(&mut self, level: u32, now: Instant) {
        self.advance(now);
        self.level = level;
        self.busy_since = (level > 0).then(|| self.busy_since.unwrap_or(now));
        let bucket = self.bucket(now);
        bucket.peak = bucket.peak.max(level);
    }

    /// How long the window has been watching, at most its length.
    pub fn known_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began).min(self.length)
    }

    /// How long there has been nothing in flight or held; since the beginning if there never was.
    pub fn quiet_for(&self, now: Instant) -> Duration {
        if self.level > 0 {
            return Duration::ZERO;
        }
        now.saturating_duration_since(self.last_busy.unwrap_or(self.began))
    }

    /// How long there has been something in flight or held without a break.
    pub fn busy_for(&self, now: Instant) -> Duration {
        self.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Average number in flight and held over the last `span`, or over what is known of it.
    pub fn average_level(&mut self, span: Duration, now: Instant) -> f64 {
        self.advance(now);
        self.sum(span, now, |bucket| bucket.request_seconds) / self.span(span, now)
    }

    /// The most that were in flight and held at once in the last `span`.
    pub fn peak_level(&mut self, span: Duration, now: Instant) -> u32 {
        self.advance(now);
        self.recent(span, now).map(|bucket| bucket.peak).max().unwrap_or(0).max(self.level)
    }

    /// Arrivals per second over the last `span`, or over what is known of it.
    pub fn arrivals_per_second(&mut self, span: Duration, now: Instant) -> f64 {
        self.advance(now);
        self.sum(span, now, |bucket| bucket.arrivals as f64) / self.span(span, now)
    }

    /// Seconds of `span` that are known; at least one, so that the first request is no flood.
    fn span(&self, span: Duration, now: Instant) -> f64 {
        now.saturating_duration_since(self.began).min(span).max(BUCKET).as_secs_f64()
    }

    /// A sum over the last `span`. Of a bucket that began before that, the share counts that lies in it: otherwise whoever
    /// looks at the beginning of each second would never see a whole one.
    fn sum(&self, span: Duration, now: Instant, number: impl Fn(&Bucket) -> f64) -> f64 {
        let share = |bucket: &Bucket| {
            let inside = (bucket.ends + span.max(BUCKET)).saturating_duration_since(now);
            inside.min(BUCKET).as_secs_f64() / BUCKET.as_secs_f64()
        };
        self.buckets.iter().map(|bucket| share(bucket) * number(bucket)).sum()
    }

    /// When the bucket ends that `at` falls into.
    fn end(&self, at: Instant) -> Instant {
        let second = at.saturating_duration_since(self.began).as_secs();
        self.began + BUCKET * (second as u32 + 1)
    }

    /// The buckets of the last `span`, the present one included.
    fn recent(&self, span: Duration, now: Instant) -> impl Iterator<Item = &Bucket> {
        let (span, end) = (Duration::from_secs(span.as_secs()).max(BUCKET), self.end(now));
        self.buckets.iter().filter(move |bucket| bucket.ends + span > end)
    }

    /// The bucket for what happens now.
    fn bucket(&mut self, now: Instant) -> &mut Bucket {
        if self.buckets.back().is_none_or(|last| now >= last.ends) {
            let ends = self.end(now);
            self.buckets.push_back(Bucket { ends, request_seconds: 0.0, peak: self.level, arrivals: 0 });
            while self.buckets.front().is_some_and(|first| first.ends + self.length < ends) {
                self.buckets.pop_front();
            }
        }
        let last = self.buckets.len() - 1;
        &mut self.buckets[last]
    }

    /// Books the current level from `since` until `now`, second by second.
    fn advance(&mut self, now: Instant) {
        if self.level == 0 || now <= self.since {
            self.since = self.since.max(now);
            return;
        }
        self.last_busy = Some(now);
        // What is older than the window is of no use: a long silence costs no more than the window.
        let mut from = self.since.max(now.checked_sub(self.length).unwrap_or(self.since));
        while from < now {
            let level = f64::from(self.level);
            let bucket = self.bucket(from);
            let until = bucket.ends.min(now);
            bucket.request_seconds += level * (until - from).as_secs_f64();
            from = until;
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn averages_are_over_what_is_known() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        window.set_level(4, start);
        window.set_level(0, at(start, 5.0));
        assert!((window.average_level(Duration::from_secs(10), at(start, 5.0)) - 4.0).abs() < 1e-9);
        assert!((window.average_level(Duration::from_secs(10), at(start, 9.5)) - 20.0 / 9.5).abs() < 1e-9);
        assert_eq!(window.average_level(Duration::from_secs(10), at(start, 70.0)), 0.0);
    }

    #[test]
    fn a_level_that_lasts_is_in_every_bucket() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        window.set_level(3, start);
        let now = at(start, 200.0);
        assert!((window.average_level(MINUTE, now) - 3.0).abs() < 0.1);
        assert_eq!(window.peak_level(Duration::from_secs(6), now), 3);
        assert!(window.buckets.len() <= 62, "memory is bounded");
    }

    #[test]
    fn a_peak_is_remembered_for_the_span_asked_for() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        window.set_level(9, start);
        window.set_level(1, at(start, 0.1));
        assert_eq!(window.peak_level(Duration::from_secs(6), at(start, 3.0)), 9);
        assert_eq!(window.peak_level(Duration::from_secs(6), at(start, 20.0)), 1);
    }

    #[test]
    fn arrivals_are_counted_per_second() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        for n in 0..100 {
            window.arrive(at(start, f64::from(n) * 0.1));
        }
        assert!((window.arrivals_per_second(MINUTE, at(start, 10.0)) - 10.0).abs() < 1e-9);
    }

    /// However the looks lie to the seconds: each sees the same load.
    #[test]
    fn a_steady_load_is_seen_whole_at_any_moment() {
        let start = Instant::now();
        for span in [Duration::from_millis(500), Duration::from_secs(6)] {
            let mut window = Window::new(Duration::from_secs(10), start);
            window.set_level(2, start);
            for hundredth in 1..2_000 {
                let now = at(start, f64::from(hundredth) / 100.0);
                window.arrive(now);
                if hundredth < 100 {
                    continue;
                }
                let (rate, level) = (window.arrivals_per_second(span, now), window.average_level(span, now));
                assert!((rate - 100.0).abs() < 2.0, "{rate} at {hundredth}");
                assert!((level - 2.0).abs() < 1e-6, "{level} at {hundredth}");
            }
        }
    }

    #[test]
    fn who_forgets_begins_to_learn_anew() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        window.set_level(2, start);
        window.forget(at(start, 30.0));
        assert_eq!(window.known_for(at(start, 31.0)), Duration::from_secs(1));
        assert!((window.average_level(MINUTE, at(start, 40.0)) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn arrivals_elsewhere_end_the_quiet() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        window.arrive_many(0, at(start, 4.0));
        assert_eq!(window.quiet_for(at(start, 5.0)), Duration::from_secs(5));
        window.arrive_many(3, at(start, 5.0));
        assert_eq!(window.quiet_for(at(start, 7.0)), Duration::from_secs(2));
    }

    #[test]
    fn quiet_begins_when_the_last_request_leaves() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        assert_eq!(window.quiet_for(at(start, 5.0)), Duration::from_secs(5), "since the beginning");
        window.set_level(1, at(start, 6.0));
        assert_eq!(window.quiet_for(at(start, 8.0)), Duration::ZERO);
        window.set_level(0, at(start, 9.0));
        assert_eq!(window.quiet_for(at(start, 11.0)), Duration::from_secs(2));
    }
}
