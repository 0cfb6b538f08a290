-- When a client was last shut out (src/access/clients.rs): what it was given before stays worthless when it is let in again.

ALTER TABLE client ADD COLUMN shut_out BIGINT NOT NULL DEFAULT 0;  -- microseconds; 0: never
UPDATE client SET shut_out = disabled WHERE disabled IS NOT NULL;
