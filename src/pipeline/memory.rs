//! How much memory there is, and how much a cell cannot do without.

use std::fs;
use std::path::Path;

use super::work;
use crate::model::Spec;
use crate::prune::StatisticKind;

/// The most memory that this process has held, in bytes, where the system tells.
pub fn peak_bytes() -> Option<u64> {
    status("VmHWM:")
}

/// The memory that this process holds now, in bytes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS:")
}

/// The memory of the machine, in bytes, where the system tells.
pub fn total_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Memory that is free to be used, in bytes, where the system tells: of the machine, of the control group (version 2)
/// that a container or a job is given, and of this process's own limit.
pub fn available_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = kilobytes(&info, "MemAvailable:");
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let own = address_space(&limits).zip(status("VmSize:")).map(|(limit, used)| limit.saturating_sub(used));
    [machine, control_group(), own].into_iter().flatten().min()
}

fn status(name: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// The bytes of a line `NAME 123 kB` of a file in /proc.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The number of a line `NAME 123`.
fn plain(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// The soft limit of /proc/self/limits; None where there is none.
fn address_space(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max address space"))?.split_whitespace().next()?.parse().ok()
}

/// What the control group of this process may still take: the least of it and those around it.
fn control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = |group: &Path| {
        let most = number(&group.join("memory.max"))?;
        let taken = number(&group.join("memory.current"))?;
        // Files that were read count as taken, but make room.
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let files: u64 = ["inactive_file ", "active_file "].iter().filter_map(|name| plain(&stat, name)).sum();
        Some(most.saturating_sub(taken.saturating_sub(files)))
    };
    root.join(own).ancestors().take_while(|group| group.starts_with(root)).filter_map(left).min()
}

/// What goes through the model in a cell.
pub struct Load {
    pub statistic: StatisticKind,
    /// Tokens of calibration.
    pub calibration: usize,
    /// Tokens of all suites.
    pub suites: usize,
    /// Whether all pruned blocks stay in memory.
    pub keeps_blocks: bool,
}

/// Bytes that a cell surely needs on the CPU, at once, beyond what is loaded with the model: hidden states, what the
/// widest linear reads of the calibration, a block before and after, and the statistic with its factors.
pub fn needed_bytes(model: &Spec, load: &Load) -> u64 {
    let widest = work::columns(model).max().unwrap_or(0) as f64;
    let hidden = (load.suites + load.calibration) as f64 * model.hidden as f64;
    let inputs = load.calibration as f64 * widest;
    let largest = || model.blocks.iter().map(|block| block.linear_parameters()).max().unwrap_or(0);
    let blocks = if load.keeps_blocks { model.linear_parameters() } else { 2 * largest() } as f64;
    let statistic = if load.statistic == StatisticKind::Gram { 2.0 * widest * widest } else { 0.0 };
    (4.0 * (hidden + inputs + blocks + statistic)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_system_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max cpu time              unlimited            unlimited            seconds   \n\
                      Max address space         6144000000           unlimited            bytes     \n";
        assert_eq!(address_space(limits), Some(6_144_000_000));
        assert_eq!(address_space(&limits.replace("6144000000", "unlimited ")), None);
        assert_eq!(kilobytes("MemFree: 1 kB\nMemAvailable:    20 kB\n", "MemAvailable:"), Some(20 << 10));
    }

    #[test]
    fn llama_2_7b_needs_its_activations_a_block_and_its_statistics() {
        let json = r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}"#;
        let model = Spec::from_hub(&serde_json::from_str(json).unwrap()).unwrap();
        let tokens = 128 * 2048;
        let load = Load { statistic: StatisticKind::Gram, calibration: tokens, suites: 0, keeps_blocks: false };
        // 4.3 GB of hidden states, 11.5 GB of inputs to down, 1.6 GB of a block twice, 1 GB of a Gram matrix twice.
        let expected = 4.0 * (tokens as f64 * (4096.0 + 11008.0) + 2.0 * 202_375_168.0 + 2.0 * 11008f64.powi(2));
        assert_eq!(needed_bytes(&model, &load), expected as u64);
        let whole = needed_bytes(&model, &Load { calibration: 0, keeps_blocks: true, ..load });
        assert!((26e9..28e9).contains(&(whole as f64)), "{whole}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some_memory_and_this_process_has_used_some() {
        assert!(available_bytes().unwrap() > 1 << 20 && peak_bytes().unwrap() > 1 << 20);
    }
}
