"""The only code that speaks to systemd: D-Bus, sd_notify and the journal."""
