//! Reading definitions and resolving them against small package repositories made on the spot.

mod boot;
mod definition;
mod manifest;
mod solver;
mod values;
mod world;
