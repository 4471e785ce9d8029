//! Waiting for a moment, to a few microseconds: the runtime's own timers are rounded up to milliseconds, which is more
//! than what is measured.

use std::{io, time::Instant};

/// A timer.
pub(crate) struct Pacer {
    #[cfg(target_os = "linux")]
    timer: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Pacer {
    /// A timer that runs on its own. Needs a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe; an OwnedFd stays what it is as long as it lives"
        )]
        let timer = tokio::io::unix::AsyncFd::new(timer)?;
        Ok(Self { timer })
    }

    /// Returns at `moment`, or at once if it has passed.
    pub(crate) async fn until(&self, moment: Instant) -> io::Result<()> {
        use rustix::{
            io::{Errno, read},
            time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime},
        };
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let times = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let read = read(&self.timer, &mut [0; 8]);
            ready.clear_ready();
            match read {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Pacer {
    /// The runtime's timer, rounded up to milliseconds: this system has no timer that can be waited for like a socket.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Returns at `moment`, or at once if it has passed.
    pub(crate) async fn until(&self, moment: Instant) -> io::Result<()> {
        tokio::time::sleep_until(moment.into()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_returns_not_before_and_not_at_all_late_for_the_past() -> io::Result<()> {
        let pacer = Pacer::new()?;
        for millis in [3, 0, 1] {
            let moment = Instant::now() + Duration::from_millis(millis);
            pacer.until(moment).await?;
            assert!(Instant::now() >= moment);
        }
        pacer.until(Instant::now() - Duration::from_secs(1)).await
    }
}
