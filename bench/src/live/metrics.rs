//! The control server's metrics, asked once a second.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Shared;

const PERIOD: Duration = Duration::from_secs(1);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// Asks for as long as the runtime lives.
pub(super) fn watch(url: String, shared: Shared) -> Result<()> {
    // Somebody may have installed one before; any does.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(3))
        .no_proxy()
        .build()
        .context("no HTTP client can be made")?;
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = ask(&client, &url).await.map_err(|e| format!("{url}: {e:#}"));
            let now = shared.now();
            shared.lock().control(answer, now);
        }
    });
    Ok(())
}

async fn ask(client: &reqwest::Client, url: &str) -> Result<BTreeMap<String, f64>> {
    let mut answer = client.get(url).send().await.context("no answer")?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.context("the answer broke off")? {
        bytes.extend_from_slice(&chunk);
        anyhow::ensure!(bytes.len() <= LONGEST, "the answer is longer than {LONGEST} bytes");
    }
    let metrics = parse(&String::from_utf8_lossy(&bytes));
    anyhow::ensure!(!metrics.is_empty(), "the answer has no metrics; give the URL of /metrics");
    Ok(metrics)
}

/// Values by name with labels, of OpenMetrics text; comments and what else it has are left out.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        // A label may have spaces; what follows it may be value and time.
        let (name, rest) = match line.rfind('}') {
            Some(end) => line.split_at_checked(end + 1)?,
            None => line.split_once(' ')?,
        };
        let value = rest.split_whitespace().next()?.parse::<f64>().ok()?;
        (name.starts_with("s2cs_") && value.is_finite()).then(|| (name.to_owned(), value))
    };
    lines.filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_s2cs_are_read() {
        let text = "# HELP s2cs_sessions Sessions by state.\n# TYPE s2cs_sessions gauge\n\
            s2cs_sessions{state=\"active\"} 3\ns2cs_sessions{state=\"a b}\"} 1 123.5\ns2cs_in_step 1\nother 7\n\
            s2cs_decisions_total{call=\"open\",outcome=\"granted\"} 12\ns2cs_bad x\ns2cs_nan NaN\n# EOF\n";
        let metrics = parse(text);
        assert_eq!(metrics.len(), 4, "{metrics:?}");
        assert_eq!(metrics["s2cs_sessions{state=\"active\"}"], 3.0);
        assert_eq!(metrics["s2cs_sessions{state=\"a b}\"}"], 1.0);
        assert_eq!(metrics["s2cs_in_step"], 1.0);
        assert!(parse("<html>nothing</html>").is_empty());
    }
}
