use prometheus::{IntGaugeVec, Opts, Registry};

/// Registers `culvert_build_info`, which is always 1 and tells the version by its label.
///
/// # Errors
/// Where the registry has a metric of that name already.
pub fn register_build_info(registry: &Registry) -> prometheus::Result<()> {
    let info =
        IntGaugeVec::new(Opts::new("culvert_build_info", "The version of this program; always 1."), &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(info))
}
