//! The local cloud: groups of qemu VMs behind an L4 balancer on this machine.
//!
//! One background process a user owns the groups, the balancers and the refreshes. It is started on demand, keeps its
//! state in SQLite, speaks HTTP on a unix socket, and ends with the last `destroy`. VMs are processes of sessions of
//! their own: they outlive the process, and a new one adopts them.
