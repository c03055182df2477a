-- Takes to the disk, and to a synchronous standby, whatever was committed before. A transaction that writes nothing of its
-- own to the log would not wait, whatever it is told.
select pg_logical_emit_message(true, 'leasehold', ''), {durable}
