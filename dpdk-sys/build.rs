//! Finds libdpdk, refuses releases the shim was not written for, compiles the shim and generates the bindings.
use std::path::PathBuf;
use std::{env, panic};

/// Oldest and newest DPDK release (year, month) that the shim and the bindings are right for.
const OLDEST: (u32, u32) = (22, 11);
const NEWEST: (u32, u32) = (25, 11);

/// The shared libraries whose functions are bound. Drivers are absent on purpose: EAL loads them from its own folder.
/// `rte_net_ring` is the exception, because `rte_eth_from_rings` is called directly. `rte_log` exists from 24.03 on.
const LIBRARIES: [&str; 7] =
    ["rte_eal", "rte_ethdev", "rte_log", "rte_mbuf", "rte_mempool", "rte_ring", "rte_telemetry"];

fn main() {
    for file in ["build.rs", "csrc/shim.c", "csrc/shim.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    if let Err(sentence) = build() {
        println!("cargo::error={}", sentence.replace('\n', " "));
    }
}

fn build() -> Result<(), String> {
    let dpdk = pkg_config::Config::new().cargo_metadata(false).env_metadata(true).probe("libdpdk").map_err(|e| {
        let cause = match e {
            pkg_config::Error::Command { cause, .. } => format!("pkg-config did not run: {cause}"),
            _ => "pkg-config knows no libdpdk".to_owned(),
        };
        format!("DPDK is not installed ({cause}); run `make deps`, or set PKG_CONFIG_PATH to where libdpdk.pc is")
    })?;
    check_version(&dpdk.version)?;

    for path in &dpdk.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES.iter().filter(|l| dpdk.libs.iter().any(|have| have == *l)) {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    println!("cargo::rustc-link-lib=dylib=rte_net_ring");

    let mut flags: Vec<String> = dpdk.include_paths.iter().map(|p| format!("-I{}", p.display())).collect();
    flags.extend(["-include".to_owned(), "rte_config.h".to_owned()]);
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        // DPDK's own minimum; its headers do not compile below it.
        flags.push("-march=corei7".to_owned());
    }

    let mut shim = cc::Build::new();
    shim.file("csrc/shim.c").opt_level(3).warnings(true);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.try_compile("s2shim")
        .map_err(|e| format!("csrc/shim.c does not compile against DPDK {}: {e}", dpdk.version))?;

    let out = PathBuf::from(
        env::var("OUT_DIR").map_err(|e| format!("OUT_DIR is not set ({e}); build with cargo"))?,
    );
    bind(&flags, &dpdk.version)?
        .write_to_file(out.join("bindings.rs"))
        .map_err(|e| format!("the bindings cannot be written to {}: {e}", out.display()))
}

fn check_version(version: &str) -> Result<(), String> {
    let mut parts = version.split(['.', '-']).map_while(|p| p.parse::<u32>().ok());
    let (Some(year), Some(month)) = (parts.next(), parts.next()) else {
        return Err(format!(
            "libdpdk calls its version {version:?}, which is not YEAR.MONTH; install DPDK 22.11 to 25.11"
        ));
    };
    if (OLDEST..=NEWEST).contains(&(year, month)) {
        return Ok(());
    }
    Err(format!(
        "DPDK {version} is installed, but this release works with {}.{:02} to {}.{:02}; install one of those, or point \
         PKG_CONFIG_PATH at its libdpdk.pc",
        OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1
    ))
}

fn bind(flags: &[String], version: &str) -> Result<bindgen::Bindings, String> {
    let builder = bindgen::Builder::default()
        .header("csrc/shim.h")
        .clang_args(flags)
        .allowlist_function("s2_.*")
        .allowlist_var("S2_.*")
        .allowlist_function("rte_eal_(init|cleanup|hotplug_add|hotplug_remove|get_runtime_dir)")
        .allowlist_function("rte_(strerror|get_tsc_hz|thread_register|thread_unregister|socket_count)")
        .allowlist_function("rte_pktmbuf_(pool_create|free_bulk)")
        .allowlist_function("rte_mempool_(free|avail_count|in_use_count)")
        .allowlist_function("rte_ring_(create|free)")
        .allowlist_function("rte_eth_from_rings")
        .allowlist_function("rte_eth_dev_(configure|start|stop|close|info_get|get_port_by_name|socket_id)")
        .allowlist_function("rte_eth_dev_(set_mtu|set_mc_addr_list|adjust_nb_rx_tx_desc|vlan_filter)")
        .allowlist_function("rte_eth_(rx_queue_setup|tx_queue_setup|stats_get|macaddr_get)")
        .allowlist_function(
            "rte_eth_(xstats_get|xstats_get_names|dev_fw_version_get|dev_default_mac_addr_set)",
        )
        .allowlist_function("rte_eth_dev_(callback_register|callback_unregister)")
        .allowlist_function("rte_dev_event_(callback_register|callback_unregister|callback_process)")
        .allowlist_function("rte_dev_(event_monitor_start|hotplug_handle_enable)")
        .allowlist_function("rte_eth_dev_rss_reta_(update|query)")
        .allowlist_function("rte_eth_(allmulticast_enable|promiscuous_enable)")
        .allowlist_function("rte_telemetry_register_cmd|rte_tel_data_start_dict")
        // Known to Rust by pointer only (see src/lib.rs): their shapes differ between releases.
        .blocklist_type("rte_(mbuf|mempool|ring|device|tel_data)(__bindgen.*)?")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .derive_default(true)
        .layout_tests(false)
        .use_core();
    // bindgen panics when it cannot load libclang.
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let bindings = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(quiet);
    match bindings {
        Ok(bindings) => {
            bindings.map_err(|e| format!("bindgen cannot read the headers of DPDK {version}: {e}"))
        }
        Err(_) => {
            Err("libclang is not installed, and bindgen needs it; run `make deps`, or set LIBCLANG_PATH"
                .to_owned())
        }
    }
}
