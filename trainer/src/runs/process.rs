//! What this process has used so far, which runs record.

/// Most memory that this process has held, in bytes. Not by `getrusage`, whose figure begins with the parent's on Linux.
#[cfg(target_os = "linux")]
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Most memory that this process has held, in bytes.
#[cfg(target_os = "macos")]
pub fn peak_memory() -> Option<u64> {
    // In bytes there, in KiB on other systems.
    u64::try_from(usage()?.max_rss()).ok()
}

/// Most memory that this process has held: this system does not tell.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn peak_memory() -> Option<u64> {
    None
}

/// Seconds of processor time that this process has used so far, in all its threads.
#[cfg(unix)]
pub fn cpu_seconds() -> Option<f64> {
    let usage = usage()?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Seconds of processor time that this process has used so far: this system does not tell.
#[cfg(not(unix))]
pub fn cpu_seconds() -> Option<f64> {
    None
}

#[cfg(unix)]
fn usage() -> Option<nix::sys::resource::Usage> {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work_and_a_peak_with_what_is_held() {
        let (before, peak) = (cpu_seconds().unwrap(), peak_memory());
        let numbers: Vec<u64> = (0..8_u64 << 20).map(std::hint::black_box).collect();
        assert!(std::hint::black_box(numbers.iter().sum::<u64>()) > 0);
        assert!(cpu_seconds().unwrap() > before);
        if cfg!(any(target_os = "linux", target_os = "macos")) {
            assert!(peak_memory().unwrap() >= peak.unwrap().max(64 << 20));
        }
    }
}
