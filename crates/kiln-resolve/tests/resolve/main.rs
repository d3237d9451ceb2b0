//! Reading definitions and resolving them against small package repositories made on the spot.

mod boot;
mod definition;
mod disk_values;
mod manifest;
mod partitions;
mod solver;
mod values;
mod world;
