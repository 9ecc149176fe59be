//! How many requests a second.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use parking_lot::RwLock;

use crate::routing::{RateKey, RequestRate};

/// What is left of a rate, by visitor where it is counted so.
pub(in crate::proxy) struct Rate {
    config: Arc<RequestRate>,
    /// With the number of replicas that it is a share for.
    limiter: RwLock<(u32, Limiter)>,
}

enum Limiter {
    All(DefaultDirectRateLimiter),
    ByAddress(DefaultKeyedRateLimiter<IpAddr>),
}

// === impl Rate ===

impl Rate {
    pub(in crate::proxy) fn new(config: Arc<RequestRate>) -> Self {
        let limiter = RwLock::new((1, Limiter::new(&config, 1)));
        Self { config, limiter }
    }

    /// Whether it is what is wanted, so that what visitors have used up of it still counts.
    pub(in crate::proxy) fn is(&self, wanted: &RequestRate) -> bool {
        *self.config == *wanted
    }

    /// Takes one request's part of it; the error is how long to wait for that.
    pub(in crate::proxy) fn take(&self, visitor: IpAddr, replicas: u32) -> Result<(), Duration> {
        {
            let limiter = self.limiter.read();
            if limiter.0 == replicas {
                return limiter.1.take(visitor);
            }
        }
        let mut limiter = self.limiter.write();
        if limiter.0 != replicas {
            *limiter = (replicas, Limiter::new(&self.config, replicas));
        }
        limiter.1.take(visitor)
    }

    /// Forgets the visitors that have all of their share again.
    pub(in crate::proxy) fn sweep(&self) {
        if let Limiter::ByAddress(limiter) = &self.limiter.read().1 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

// === impl Limiter ===

impl Limiter {
    /// One replica's share: the exact rate, and a burst of at least 1.
    fn new(config: &RequestRate, replicas: u32) -> Self {
        let replicas = replicas.max(1);
        let interval = Duration::from_secs(1) * replicas / config.per_second.get();
        let burst = NonZeroU32::new(config.burst.get().div_ceil(replicas)).unwrap_or(NonZeroU32::MIN);
        // An interval of zero would be no quota.
        let quota = Quota::with_period(interval.max(Duration::from_nanos(1)));
        let quota = quota.unwrap_or(Quota::per_second(config.per_second)).allow_burst(burst);
        match config.per {
            RateKey::All => Self::All(RateLimiter::direct(quota)),
            RateKey::ClientIp => Self::ByAddress(RateLimiter::dashmap(quota)),
        }
    }

    fn take(&self, visitor: IpAddr) -> Result<(), Duration> {
        let taken = match self {
            Self::All(limiter) => limiter.check(),
            Self::ByAddress(limiter) => limiter.check_key(&key(visitor)),
        };
        taken.map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

/// A visitor's address as it is counted: of IPv6, its /64, since that is the least that one visitor has.
fn key(visitor: IpAddr) -> IpAddr {
    match visitor.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Scope;

    /// So many that a share of one a second is none for the time of a test.
    const REPLICAS: u32 = 100_000;

    fn rate(burst: u32, per: RateKey) -> Rate {
        let burst = NonZeroU32::new(burst).expect("a burst");
        Rate::new(Arc::new(RequestRate { scope: Scope::Host, per_second: NonZeroU32::MIN, burst, per }))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn visitors_are_counted_by_address_or_network_and_told_how_long_to_wait() {
        let rate = rate(2 * REPLICAS, RateKey::ClientIp);
        for (visitor, same) in [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1")] {
            assert_eq!(rate.take(address(visitor), REPLICAS), Ok(()));
            assert_eq!(rate.take(address(same), REPLICAS), Ok(()));
            let wait = rate.take(address(visitor), REPLICAS).expect_err("the burst is used up");
            assert!(wait <= Duration::from_secs(REPLICAS.into()) && wait > Duration::from_hours(25), "{wait:?}");
        }
        assert_eq!(rate.take(address("192.0.2.2"), REPLICAS), Ok(()));
        assert_eq!(rate.take(address("2001:db8:0:1::1"), REPLICAS), Ok(()));
    }

    #[test]
    fn all_are_counted_together_where_that_is_asked_for() {
        let rate = rate(1, RateKey::All);
        assert_eq!(rate.take(address("192.0.2.1"), REPLICAS), Ok(()));
        assert!(rate.take(address("192.0.2.2"), REPLICAS).is_err());
    }

    #[test]
    fn a_replica_has_its_share_and_forgets_who_has_all_of_it_again() {
        let rate = rate(6, RateKey::ClientIp);
        let visitor = address("192.0.2.1");
        let granted = |replicas| (0..10).filter(|_| rate.take(visitor, replicas).is_ok()).count();
        assert_eq!(granted(3 * REPLICAS), 1, "at least one");
        assert_eq!(granted(3), 2);
        let Limiter::ByAddress(limiter) = &rate.limiter.read().1 else { panic!("by address") };
        assert_eq!(limiter.len(), 1);
        rate.sweep();
        assert_eq!(limiter.len(), 1, "it still matters");
        let fast = RequestRate { per_second: NonZeroU32::MAX, ..(*rate.config).clone() };
        let fast = Rate::new(Arc::new(fast));
        assert_eq!(fast.take(visitor, 1), Ok(()));
        fast.sweep();
        let Limiter::ByAddress(limiter) = &fast.limiter.read().1 else { panic!("by address") };
        assert!(limiter.is_empty());
    }
}
