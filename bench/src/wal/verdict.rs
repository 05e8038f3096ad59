//! What the disk does on a flush, and which sync methods are safe and quick on it.

use coracle::uring::{DeviceFacts, SyncMethod, WriteCache, choose_sync_method};
use serde::Serialize;

/// A median above this in a busy core, with an idle one below half of it, is the timer-tick trap.
const TRAP_US: f64 = 1500.0;

/// Durable writes of 4 KiB, one at a time, with one method.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MethodFigures {
    /// The method.
    pub(super) method: SyncMethod,
    /// Medians and tails in microseconds.
    pub(super) idle_p50_us: f64,
    pub(super) idle_p99_us: f64,
    pub(super) busy_p50_us: f64,
    pub(super) busy_p99_us: f64,
}

/// The judgement, as lines of text.
pub(super) fn verdict(facts: &DeviceFacts, figures: &[MethodFigures]) -> Vec<String> {
    let auto = choose_sync_method(SyncMethod::Auto, facts).method;
    let mut lines = vec![format!("device: {facts}")];
    let of = |method| figures.iter().find(|figure| figure.method == method);
    let (durable, plain) = (of(auto), of(SyncMethod::BufferedNone));
    lines.push(match (facts.write_cache, durable) {
        (Some(WriteCache::WriteThrough), _) => {
            "flush: none needed, the device reports no volatile cache; if it has one after all \
             (some disks and hypervisors say so wrongly), nothing here is safe"
                .to_owned()
        }
        (_, Some(durable)) if plain.is_some_and(|p| durable.idle_p50_us < 2.0 * p.idle_p50_us) => {
            "flush: hardly dearer than an unsynced write: a protected cache, or a disk that ignores \
             flushes; make sure which"
                .to_owned()
        }
        (_, Some(durable)) => {
            format!("flush: part of each durable write of {:.0} us", durable.idle_p50_us)
        }
        (_, None) => "flush: not measured".to_owned(),
    });
    for figure in figures {
        let safety = match figure.method {
            SyncMethod::BufferedNone => "NOT safe: lost at a power cut",
            _ => "safe",
        };
        let trapped = figure.busy_p50_us > TRAP_US && figure.idle_p50_us < TRAP_US / 2.0;
        let speed = if trapped {
            format!("slow on a busy core: {:.1} ms, waits for the tick", figure.busy_p50_us / 1e3)
        } else {
            format!(
                "{:.0} us idle, {:.0} us on a busy core",
                figure.idle_p50_us, figure.busy_p50_us
            )
        };
        lines.push(format!("{}: {safety}; {speed}", figure.method));
    }
    let best = figures
        .iter()
        .filter(|figure| figure.method != SyncMethod::BufferedNone)
        .min_by(|a, b| worst(a).total_cmp(&worst(b)));
    if let Some(best) = best {
        lines.push(match of(auto) {
            Some(chosen) if worst(chosen) > 1.25 * worst(best) => format!(
                "auto takes {auto}; measured here, sync_method = {} is quicker: consider setting it",
                best.method
            ),
            _ => format!("auto takes {auto}, which is right here"),
        });
    }
    lines
}

fn worst(figures: &MethodFigures) -> f64 {
    figures.idle_p50_us.max(figures.busy_p50_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(method: SyncMethod, idle: f64, busy: f64) -> MethodFigures {
        MethodFigures {
            method,
            idle_p50_us: idle,
            idle_p99_us: idle * 2.0,
            busy_p50_us: busy,
            busy_p99_us: busy * 2.0,
        }
    }

    fn write_back() -> DeviceFacts {
        DeviceFacts {
            disk: Some("vda".into()),
            write_cache: Some(WriteCache::WriteBack),
            fua: Some(false),
        }
    }

    #[test]
    fn the_trap_is_called_by_its_name_and_auto_is_confirmed() {
        let text = verdict(
            &write_back(),
            &[
                figures(SyncMethod::Linked, 45.0, 240.0),
                figures(SyncMethod::Dsync, 50.0, 4100.0),
                figures(SyncMethod::BufferedNone, 4.0, 200.0),
            ],
        )
        .join("\n");
        assert!(text.contains("dsync: safe; slow on a busy core: 4.1 ms"), "{text}");
        assert!(text.contains("buffered-none: NOT safe"), "{text}");
        assert!(text.contains("auto takes linked, which is right here"), "{text}");
    }

    #[test]
    fn a_quicker_method_than_autos_is_recommended() {
        let measured =
            [figures(SyncMethod::Linked, 90.0, 400.0), figures(SyncMethod::Dsync, 40.0, 210.0)];
        let text = verdict(&write_back(), &measured).join("\n");
        assert!(text.contains("sync_method = dsync is quicker"), "{text}");
    }
}
