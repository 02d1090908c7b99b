-- The tables of a Magento 2.4.7 store that Tocsin reads or writes, for MariaDB: columns, keys and foreign-key actions as
-- Magento declares them, plus ours and the changelogs. For tests only: a store's own tables come from Magento.
-- Not here: the triggers. `mview.py` builds them as Magento would, from magento_module/etc/mview.xml and etc/di.xml.

-- Magento's ------------------------------------------------------------------------------------------------------------

CREATE TABLE `store_website` (
    `website_id` SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `code` VARCHAR(32),
    `name` VARCHAR(64),
    `sort_order` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `default_group_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `is_default` SMALLINT UNSIGNED DEFAULT 0,
    PRIMARY KEY (`website_id`),
    UNIQUE KEY `STORE_WEBSITE_CODE` (`code`),
    KEY `STORE_WEBSITE_SORT_ORDER` (`sort_order`),
    KEY `STORE_WEBSITE_DEFAULT_GROUP_ID` (`default_group_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `store_group` (
    `group_id` SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `website_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `name` VARCHAR(255) NOT NULL,
    `root_category_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `default_store_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `code` VARCHAR(32),
    PRIMARY KEY (`group_id`),
    UNIQUE KEY `STORE_GROUP_CODE` (`code`),
    KEY `STORE_GROUP_WEBSITE_ID` (`website_id`),
    KEY `STORE_GROUP_DEFAULT_STORE_ID` (`default_store_id`),
    CONSTRAINT `STORE_GROUP_WEBSITE_ID_STORE_WEBSITE_WEBSITE_ID` FOREIGN KEY (`website_id`)
        REFERENCES `store_website` (`website_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `store` (
    `store_id` SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `code` VARCHAR(32),
    `website_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `group_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `name` VARCHAR(255) NOT NULL,
    `sort_order` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `is_active` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    PRIMARY KEY (`store_id`),
    UNIQUE KEY `STORE_CODE` (`code`),
    KEY `STORE_WEBSITE_ID` (`website_id`),
    KEY `STORE_IS_ACTIVE_SORT_ORDER` (`is_active`, `sort_order`),
    KEY `STORE_GROUP_ID` (`group_id`),
    CONSTRAINT `STORE_GROUP_ID_STORE_GROUP_GROUP_ID` FOREIGN KEY (`group_id`)
        REFERENCES `store_group` (`group_id`) ON DELETE CASCADE,
    CONSTRAINT `STORE_WEBSITE_ID_STORE_WEBSITE_WEBSITE_ID` FOREIGN KEY (`website_id`)
        REFERENCES `store_website` (`website_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `core_config_data` (
    `config_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `scope` VARCHAR(8) NOT NULL DEFAULT 'default',
    `scope_id` INT NOT NULL DEFAULT 0,
    `path` VARCHAR(255) NOT NULL DEFAULT 'general',
    `value` TEXT,
    `updated_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (`config_id`),
    UNIQUE KEY `CORE_CONFIG_DATA_SCOPE_SCOPE_ID_PATH` (`scope`, `scope_id`, `path`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `directory_country_region` (
    `region_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `country_id` VARCHAR(4) NOT NULL DEFAULT '0',
    `code` VARCHAR(32),
    `default_name` VARCHAR(255),
    PRIMARY KEY (`region_id`),
    KEY `DIRECTORY_COUNTRY_REGION_COUNTRY_ID` (`country_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `eav_entity_type` (
    `entity_type_id` SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_type_code` VARCHAR(50) NOT NULL,
    `entity_model` VARCHAR(255) NOT NULL,
    `attribute_model` VARCHAR(255),
    `entity_table` VARCHAR(255),
    `value_table_prefix` VARCHAR(255),
    `entity_id_field` VARCHAR(255),
    `is_data_sharing` SMALLINT UNSIGNED NOT NULL DEFAULT 1,
    `data_sharing_key` VARCHAR(100) DEFAULT 'default',
    `default_attribute_set_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `increment_model` VARCHAR(255),
    `increment_per_store` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `increment_pad_length` SMALLINT UNSIGNED NOT NULL DEFAULT 8,
    `increment_pad_char` VARCHAR(1) NOT NULL DEFAULT '0',
    `additional_attribute_table` VARCHAR(255),
    `entity_attribute_collection` VARCHAR(255),
    PRIMARY KEY (`entity_type_id`),
    KEY `EAV_ENTITY_TYPE_ENTITY_TYPE_CODE` (`entity_type_code`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `eav_attribute` (
    `attribute_id` SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_type_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `attribute_code` VARCHAR(255) NOT NULL,
    `attribute_model` VARCHAR(255),
    `backend_model` VARCHAR(255),
    `backend_type` VARCHAR(8) NOT NULL DEFAULT 'static',
    `backend_table` VARCHAR(255),
    `frontend_model` VARCHAR(255),
    `frontend_input` VARCHAR(50),
    `frontend_label` VARCHAR(255),
    `frontend_class` VARCHAR(255),
    `source_model` VARCHAR(255),
    `is_required` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `is_user_defined` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `default_value` TEXT,
    `is_unique` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `note` VARCHAR(255),
    PRIMARY KEY (`attribute_id`),
    UNIQUE KEY `EAV_ATTRIBUTE_ENTITY_TYPE_ID_ATTRIBUTE_CODE` (`entity_type_id`, `attribute_code`),
    KEY `EAV_ATTRIBUTE_FRONTEND_INPUT_ENTITY_TYPE_ID_IS_USER_DEFINED` (`frontend_input`, `entity_type_id`, `is_user_defined`),
    CONSTRAINT `EAV_ATTRIBUTE_ENTITY_TYPE_ID_EAV_ENTITY_TYPE_ENTITY_TYPE_ID` FOREIGN KEY (`entity_type_id`)
        REFERENCES `eav_entity_type` (`entity_type_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `eav_attribute_option` (
    `option_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `sort_order` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    PRIMARY KEY (`option_id`),
    KEY `EAV_ATTRIBUTE_OPTION_ATTRIBUTE_ID` (`attribute_id`),
    CONSTRAINT `EAV_ATTRIBUTE_OPTION_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `eav_attribute_option_value` (
    `value_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `option_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `store_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `value` VARCHAR(255),
    PRIMARY KEY (`value_id`),
    KEY `EAV_ATTRIBUTE_OPTION_VALUE_OPTION_ID` (`option_id`),
    KEY `EAV_ATTRIBUTE_OPTION_VALUE_STORE_ID` (`store_id`),
    CONSTRAINT `EAV_ATTR_OPT_VAL_OPT_ID_EAV_ATTR_OPT_OPT_ID` FOREIGN KEY (`option_id`)
        REFERENCES `eav_attribute_option` (`option_id`) ON DELETE CASCADE,
    CONSTRAINT `EAV_ATTRIBUTE_OPTION_VALUE_STORE_ID_STORE_STORE_ID` FOREIGN KEY (`store_id`)
        REFERENCES `store` (`store_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_entity` (
    `entity_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `website_id` SMALLINT UNSIGNED,
    `email` VARCHAR(255),
    `group_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `increment_id` VARCHAR(50),
    `store_id` SMALLINT UNSIGNED DEFAULT 0,
    `created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    `updated_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    `is_active` SMALLINT UNSIGNED NOT NULL DEFAULT 1,
    `disable_auto_group_change` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `created_in` VARCHAR(255),
    `prefix` VARCHAR(40),
    `firstname` VARCHAR(255),
    `middlename` VARCHAR(255),
    `lastname` VARCHAR(255),
    `suffix` VARCHAR(40),
    `dob` DATE,
    `password_hash` VARCHAR(128),
    `rp_token` VARCHAR(128),
    `rp_token_created_at` DATETIME,
    `default_billing` INT UNSIGNED,
    `default_shipping` INT UNSIGNED,
    `taxvat` VARCHAR(50),
    `confirmation` VARCHAR(64),
    `gender` SMALLINT UNSIGNED,
    `failures_num` SMALLINT DEFAULT 0,
    `first_failure` TIMESTAMP NULL,
    `lock_expires` TIMESTAMP NULL,
    `session_cutoff` TIMESTAMP NULL,
    PRIMARY KEY (`entity_id`),
    UNIQUE KEY `CUSTOMER_ENTITY_EMAIL_WEBSITE_ID` (`email`, `website_id`),
    KEY `CUSTOMER_ENTITY_STORE_ID` (`store_id`),
    KEY `CUSTOMER_ENTITY_WEBSITE_ID` (`website_id`),
    KEY `CUSTOMER_ENTITY_FIRSTNAME` (`firstname`),
    KEY `CUSTOMER_ENTITY_LASTNAME` (`lastname`),
    CONSTRAINT `CUSTOMER_ENTITY_STORE_ID_STORE_STORE_ID` FOREIGN KEY (`store_id`)
        REFERENCES `store` (`store_id`) ON DELETE SET NULL,
    CONSTRAINT `CUSTOMER_ENTITY_WEBSITE_ID_STORE_WEBSITE_WEBSITE_ID` FOREIGN KEY (`website_id`)
        REFERENCES `store_website` (`website_id`) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_entity_varchar` (
    `value_id` INT NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `value` VARCHAR(255),
    PRIMARY KEY (`value_id`),
    UNIQUE KEY `CUSTOMER_ENTITY_VARCHAR_ENTITY_ID_ATTRIBUTE_ID` (`entity_id`, `attribute_id`),
    KEY `CUSTOMER_ENTITY_VARCHAR_ATTRIBUTE_ID` (`attribute_id`),
    KEY `CUSTOMER_ENTITY_VARCHAR_ENTITY_ID_ATTRIBUTE_ID_VALUE` (`entity_id`, `attribute_id`, `value`),
    CONSTRAINT `CUSTOMER_ENTITY_VARCHAR_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE,
    CONSTRAINT `CUSTOMER_ENTITY_VARCHAR_ENTITY_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`entity_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_entity_int` (
    `value_id` INT NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `value` INT NOT NULL DEFAULT 0,
    PRIMARY KEY (`value_id`),
    UNIQUE KEY `CUSTOMER_ENTITY_INT_ENTITY_ID_ATTRIBUTE_ID` (`entity_id`, `attribute_id`),
    KEY `CUSTOMER_ENTITY_INT_ATTRIBUTE_ID` (`attribute_id`),
    KEY `CUSTOMER_ENTITY_INT_ENTITY_ID_ATTRIBUTE_ID_VALUE` (`entity_id`, `attribute_id`, `value`),
    CONSTRAINT `CUSTOMER_ENTITY_INT_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE,
    CONSTRAINT `CUSTOMER_ENTITY_INT_ENTITY_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`entity_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_entity_decimal` (
    `value_id` INT NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `value` DECIMAL(12,4) NOT NULL DEFAULT 0,
    PRIMARY KEY (`value_id`),
    UNIQUE KEY `CUSTOMER_ENTITY_DECIMAL_ENTITY_ID_ATTRIBUTE_ID` (`entity_id`, `attribute_id`),
    KEY `CUSTOMER_ENTITY_DECIMAL_ATTRIBUTE_ID` (`attribute_id`),
    KEY `CUSTOMER_ENTITY_DECIMAL_ENTITY_ID_ATTRIBUTE_ID_VALUE` (`entity_id`, `attribute_id`, `value`),
    CONSTRAINT `CUSTOMER_ENTITY_DECIMAL_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE,
    CONSTRAINT `CUSTOMER_ENTITY_DECIMAL_ENTITY_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`entity_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_entity_text` (
    `value_id` INT NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `value` TEXT NOT NULL,
    PRIMARY KEY (`value_id`),
    UNIQUE KEY `CUSTOMER_ENTITY_TEXT_ENTITY_ID_ATTRIBUTE_ID` (`entity_id`, `attribute_id`),
    KEY `CUSTOMER_ENTITY_TEXT_ATTRIBUTE_ID` (`attribute_id`),
    CONSTRAINT `CUSTOMER_ENTITY_TEXT_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE,
    CONSTRAINT `CUSTOMER_ENTITY_TEXT_ENTITY_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`entity_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_entity_datetime` (
    `value_id` INT NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `value` DATETIME,
    PRIMARY KEY (`value_id`),
    UNIQUE KEY `CUSTOMER_ENTITY_DATETIME_ENTITY_ID_ATTRIBUTE_ID` (`entity_id`, `attribute_id`),
    KEY `CUSTOMER_ENTITY_DATETIME_ATTRIBUTE_ID` (`attribute_id`),
    KEY `CUSTOMER_ENTITY_DATETIME_ENTITY_ID_ATTRIBUTE_ID_VALUE` (`entity_id`, `attribute_id`, `value`),
    CONSTRAINT `CUSTOMER_ENTITY_DATETIME_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE,
    CONSTRAINT `CUSTOMER_ENTITY_DATETIME_ENTITY_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`entity_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `customer_address_entity` (
    `entity_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `increment_id` VARCHAR(50),
    `parent_id` INT UNSIGNED,
    `created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    `updated_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    `is_active` SMALLINT UNSIGNED NOT NULL DEFAULT 1,
    `city` VARCHAR(255) NOT NULL,
    `company` VARCHAR(255),
    `country_id` VARCHAR(255) NOT NULL,
    `fax` VARCHAR(255),
    `firstname` VARCHAR(255) NOT NULL,
    `lastname` VARCHAR(255) NOT NULL,
    `middlename` VARCHAR(255),
    `postcode` VARCHAR(255),
    `prefix` VARCHAR(40),
    `region` VARCHAR(255),
    `region_id` INT UNSIGNED,
    `street` TEXT NOT NULL,
    `suffix` VARCHAR(40),
    `telephone` VARCHAR(255) NOT NULL,
    `vat_id` VARCHAR(255),
    `vat_is_valid` INT UNSIGNED,
    `vat_request_date` VARCHAR(255),
    `vat_request_id` VARCHAR(255),
    `vat_request_success` INT UNSIGNED,
    PRIMARY KEY (`entity_id`),
    KEY `CUSTOMER_ADDRESS_ENTITY_PARENT_ID` (`parent_id`),
    CONSTRAINT `CUSTOMER_ADDRESS_ENTITY_PARENT_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`parent_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `sales_order` (
    `entity_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `state` VARCHAR(32),
    `status` VARCHAR(32),
    `coupon_code` VARCHAR(255),
    `protect_code` VARCHAR(255),
    `shipping_description` VARCHAR(255),
    `is_virtual` SMALLINT UNSIGNED,
    `store_id` SMALLINT UNSIGNED,
    `customer_id` INT UNSIGNED,
    `base_discount_amount` DECIMAL(20,4),
    `base_discount_canceled` DECIMAL(20,4),
    `base_discount_invoiced` DECIMAL(20,4),
    `base_discount_refunded` DECIMAL(20,4),
    `base_grand_total` DECIMAL(20,4),
    `base_shipping_amount` DECIMAL(20,4),
    `base_shipping_canceled` DECIMAL(20,4),
    `base_shipping_invoiced` DECIMAL(20,4),
    `base_shipping_refunded` DECIMAL(20,4),
    `base_shipping_tax_amount` DECIMAL(20,4),
    `base_shipping_tax_refunded` DECIMAL(20,4),
    `base_subtotal` DECIMAL(20,4),
    `base_subtotal_canceled` DECIMAL(20,4),
    `base_subtotal_invoiced` DECIMAL(20,4),
    `base_subtotal_refunded` DECIMAL(20,4),
    `base_tax_amount` DECIMAL(20,4),
    `base_tax_canceled` DECIMAL(20,4),
    `base_tax_invoiced` DECIMAL(20,4),
    `base_tax_refunded` DECIMAL(20,4),
    `base_to_global_rate` DECIMAL(20,4),
    `base_to_order_rate` DECIMAL(20,4),
    `base_total_canceled` DECIMAL(20,4),
    `base_total_invoiced` DECIMAL(20,4),
    `base_total_invoiced_cost` DECIMAL(20,4),
    `base_total_offline_refunded` DECIMAL(20,4),
    `base_total_online_refunded` DECIMAL(20,4),
    `base_total_paid` DECIMAL(20,4),
    `base_total_qty_ordered` DECIMAL(12,4),
    `base_total_refunded` DECIMAL(20,4),
    `discount_amount` DECIMAL(20,4),
    `discount_canceled` DECIMAL(20,4),
    `discount_invoiced` DECIMAL(20,4),
    `discount_refunded` DECIMAL(20,4),
    `grand_total` DECIMAL(20,4),
    `shipping_amount` DECIMAL(20,4),
    `shipping_canceled` DECIMAL(20,4),
    `shipping_invoiced` DECIMAL(20,4),
    `shipping_refunded` DECIMAL(20,4),
    `shipping_tax_amount` DECIMAL(20,4),
    `shipping_tax_refunded` DECIMAL(20,4),
    `store_to_base_rate` DECIMAL(12,4),
    `store_to_order_rate` DECIMAL(12,4),
    `subtotal` DECIMAL(20,4),
    `subtotal_canceled` DECIMAL(20,4),
    `subtotal_invoiced` DECIMAL(20,4),
    `subtotal_refunded` DECIMAL(20,4),
    `tax_amount` DECIMAL(20,4),
    `tax_canceled` DECIMAL(20,4),
    `tax_invoiced` DECIMAL(20,4),
    `tax_refunded` DECIMAL(20,4),
    `total_canceled` DECIMAL(20,4),
    `total_invoiced` DECIMAL(20,4),
    `total_offline_refunded` DECIMAL(20,4),
    `total_online_refunded` DECIMAL(20,4),
    `total_paid` DECIMAL(20,4),
    `total_qty_ordered` DECIMAL(12,4),
    `total_refunded` DECIMAL(20,4),
    `can_ship_partially` SMALLINT UNSIGNED,
    `can_ship_partially_item` SMALLINT UNSIGNED,
    `customer_is_guest` SMALLINT UNSIGNED,
    `customer_note_notify` SMALLINT UNSIGNED,
    `billing_address_id` INT,
    `customer_group_id` INT,
    `edit_increment` INT,
    `email_sent` SMALLINT UNSIGNED,
    `send_email` SMALLINT UNSIGNED,
    `forced_shipment_with_invoice` SMALLINT UNSIGNED,
    `payment_auth_expiration` INT,
    `quote_address_id` INT,
    `quote_id` INT,
    `shipping_address_id` INT,
    `adjustment_negative` DECIMAL(20,4),
    `adjustment_positive` DECIMAL(20,4),
    `base_adjustment_negative` DECIMAL(20,4),
    `base_adjustment_positive` DECIMAL(20,4),
    `base_shipping_discount_amount` DECIMAL(20,4),
    `base_subtotal_incl_tax` DECIMAL(20,4),
    `base_total_due` DECIMAL(20,4),
    `payment_authorization_amount` DECIMAL(20,4),
    `shipping_discount_amount` DECIMAL(20,4),
    `subtotal_incl_tax` DECIMAL(20,4),
    `total_due` DECIMAL(20,4),
    `weight` DECIMAL(12,4),
    `customer_dob` DATETIME,
    `increment_id` VARCHAR(50),
    `applied_rule_ids` VARCHAR(128),
    `base_currency_code` VARCHAR(3),
    `customer_email` VARCHAR(128),
    `customer_firstname` VARCHAR(128),
    `customer_lastname` VARCHAR(128),
    `customer_middlename` VARCHAR(128),
    `customer_prefix` VARCHAR(32),
    `customer_suffix` VARCHAR(32),
    `customer_taxvat` VARCHAR(32),
    `discount_description` VARCHAR(255),
    `ext_customer_id` VARCHAR(32),
    `ext_order_id` VARCHAR(32),
    `global_currency_code` VARCHAR(3),
    `hold_before_state` VARCHAR(32),
    `hold_before_status` VARCHAR(32),
    `order_currency_code` VARCHAR(3),
    `original_increment_id` VARCHAR(50),
    `relation_child_id` VARCHAR(32),
    `relation_child_real_id` VARCHAR(32),
    `relation_parent_id` VARCHAR(32),
    `relation_parent_real_id` VARCHAR(32),
    `remote_ip` VARCHAR(45),
    `shipping_method` VARCHAR(120),
    `store_currency_code` VARCHAR(3),
    `store_name` VARCHAR(255),
    `x_forwarded_for` VARCHAR(255),
    `customer_note` TEXT,
    `created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    `updated_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    `total_item_count` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `customer_gender` INT,
    `discount_tax_compensation_amount` DECIMAL(20,4),
    `base_discount_tax_compensation_amount` DECIMAL(20,4),
    `shipping_discount_tax_compensation_amount` DECIMAL(20,4),
    `base_shipping_discount_tax_compensation_amnt` DECIMAL(20,4),
    `discount_tax_compensation_invoiced` DECIMAL(20,4),
    `base_discount_tax_compensation_invoiced` DECIMAL(20,4),
    `discount_tax_compensation_refunded` DECIMAL(20,4),
    `base_discount_tax_compensation_refunded` DECIMAL(20,4),
    `shipping_incl_tax` DECIMAL(20,4),
    `base_shipping_incl_tax` DECIMAL(20,4),
    `coupon_rule_name` VARCHAR(255),
    PRIMARY KEY (`entity_id`),
    UNIQUE KEY `SALES_ORDER_INCREMENT_ID_STORE_ID` (`increment_id`, `store_id`),
    KEY `SALES_ORDER_STATUS` (`status`),
    KEY `SALES_ORDER_STATE` (`state`),
    KEY `SALES_ORDER_STORE_ID` (`store_id`),
    KEY `SALES_ORDER_CREATED_AT` (`created_at`),
    KEY `SALES_ORDER_CUSTOMER_ID` (`customer_id`),
    KEY `SALES_ORDER_EXT_ORDER_ID` (`ext_order_id`),
    KEY `SALES_ORDER_QUOTE_ID` (`quote_id`),
    KEY `SALES_ORDER_UPDATED_AT` (`updated_at`),
    KEY `SALES_ORDER_SEND_EMAIL` (`send_email`),
    KEY `SALES_ORDER_EMAIL_SENT` (`email_sent`),
    KEY `SALES_ORDER_STORE_STATE_CREATED` (`store_id`, `state`, `created_at`),
    CONSTRAINT `SALES_ORDER_CUSTOMER_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`customer_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE SET NULL,
    CONSTRAINT `SALES_ORDER_STORE_ID_STORE_STORE_ID` FOREIGN KEY (`store_id`)
        REFERENCES `store` (`store_id`) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Of the cart's many columns those that are read, and the one that must never be.
CREATE TABLE `quote` (
    `entity_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `store_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `is_active` SMALLINT UNSIGNED DEFAULT 1,
    `customer_id` INT UNSIGNED,
    `customer_email` VARCHAR(255),
    `password_hash` VARCHAR(255),
    PRIMARY KEY (`entity_id`),
    KEY `QUOTE_CUSTOMER_ID_STORE_ID_IS_ACTIVE` (`customer_id`, `store_id`, `is_active`)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_general_ci;

CREATE TABLE `sales_order_grid` (
    `entity_id` INT UNSIGNED NOT NULL,
    `status` VARCHAR(32),
    `store_id` SMALLINT UNSIGNED,
    `store_name` VARCHAR(255),
    `customer_id` INT UNSIGNED,
    `base_grand_total` DECIMAL(20,4),
    `base_total_paid` DECIMAL(20,4),
    `grand_total` DECIMAL(20,4),
    `total_paid` DECIMAL(20,4),
    `increment_id` VARCHAR(50),
    `base_currency_code` VARCHAR(3),
    `order_currency_code` VARCHAR(255),
    `shipping_name` VARCHAR(255),
    `billing_name` VARCHAR(255),
    `created_at` TIMESTAMP NULL,
    `updated_at` TIMESTAMP NULL,
    `billing_address` VARCHAR(255),
    `shipping_address` VARCHAR(255),
    `shipping_information` VARCHAR(255),
    `customer_email` VARCHAR(255),
    `customer_group` VARCHAR(255),
    `subtotal` DECIMAL(20,4),
    `shipping_and_handling` DECIMAL(20,4),
    `customer_name` VARCHAR(255),
    `payment_method` VARCHAR(255),
    `total_refunded` DECIMAL(20,4),
    PRIMARY KEY (`entity_id`),
    UNIQUE KEY `SALES_ORDER_GRID_INCREMENT_ID_STORE_ID` (`increment_id`, `store_id`),
    KEY `SALES_ORDER_GRID_STATUS` (`status`),
    KEY `SALES_ORDER_GRID_STORE_ID` (`store_id`),
    KEY `SALES_ORDER_GRID_BASE_GRAND_TOTAL` (`base_grand_total`),
    KEY `SALES_ORDER_GRID_BASE_TOTAL_PAID` (`base_total_paid`),
    KEY `SALES_ORDER_GRID_GRAND_TOTAL` (`grand_total`),
    KEY `SALES_ORDER_GRID_TOTAL_PAID` (`total_paid`),
    KEY `SALES_ORDER_GRID_SHIPPING_NAME` (`shipping_name`),
    KEY `SALES_ORDER_GRID_BILLING_NAME` (`billing_name`),
    KEY `SALES_ORDER_GRID_CREATED_AT` (`created_at`),
    KEY `SALES_ORDER_GRID_CUSTOMER_ID` (`customer_id`),
    KEY `SALES_ORDER_GRID_UPDATED_AT` (`updated_at`),
    FULLTEXT KEY `FTI_65B9E9925EC58F0C7C2E2F6379C233E7` (
        `increment_id`, `billing_name`, `shipping_name`, `shipping_address`, `billing_address`, `customer_name`,
        `customer_email`
    )
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `sales_order_address` (
    `entity_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `parent_id` INT UNSIGNED,
    `customer_address_id` INT,
    `quote_address_id` INT,
    `region_id` INT,
    `customer_id` INT,
    `fax` VARCHAR(255),
    `region` VARCHAR(255),
    `postcode` VARCHAR(255),
    `lastname` VARCHAR(255),
    `street` VARCHAR(255),
    `city` VARCHAR(255),
    `email` VARCHAR(255),
    `telephone` VARCHAR(255),
    `country_id` VARCHAR(2),
    `firstname` VARCHAR(255),
    `address_type` VARCHAR(255),
    `prefix` VARCHAR(255),
    `middlename` VARCHAR(255),
    `suffix` VARCHAR(255),
    `company` VARCHAR(255),
    `vat_id` TEXT,
    `vat_is_valid` SMALLINT,
    `vat_request_id` TEXT,
    `vat_request_date` TEXT,
    `vat_request_success` SMALLINT,
    PRIMARY KEY (`entity_id`),
    KEY `SALES_ORDER_ADDRESS_PARENT_ID` (`parent_id`),
    CONSTRAINT `SALES_ORDER_ADDRESS_PARENT_ID_SALES_ORDER_ENTITY_ID` FOREIGN KEY (`parent_id`)
        REFERENCES `sales_order` (`entity_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `mview_state` (
    `state_id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `view_id` VARCHAR(255),
    `mode` VARCHAR(16) DEFAULT 'disabled',
    `status` VARCHAR(16) DEFAULT 'idle',
    `updated` DATETIME,
    `version_id` INT UNSIGNED,
    PRIMARY KEY (`state_id`),
    KEY `MVIEW_STATE_VIEW_ID` (`view_id`),
    KEY `MVIEW_STATE_MODE` (`mode`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Ours -----------------------------------------------------------------------------------------------------------------

-- One AI write a row, append-only: only deleted_at may be set later. No foreign key: rows that a key cascades to fire
-- no trigger, and provenance must outlive the customer. Times are UTC.
CREATE TABLE `tocsin_provenance` (
    `id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `record_id` VARCHAR(64) NOT NULL,
    `root` VARCHAR(32) NOT NULL,
    `customer_id` INT UNSIGNED,
    `order_id` INT UNSIGNED,
    `entity_type` VARCHAR(64) NOT NULL,
    `entity_id` INT UNSIGNED NOT NULL,
    `attribute` VARCHAR(255) NOT NULL,
    `model_id` VARCHAR(128) NOT NULL,
    `model_version` VARCHAR(128) NOT NULL,
    `run_id` VARCHAR(128),
    `dataset_version` VARCHAR(128),
    `generated_at` DATETIME NOT NULL,
    `deleted_at` DATETIME,
    `supersedes` VARCHAR(64),
    `kind` VARCHAR(16) NOT NULL,
    `confidence` DECIMAL(5,4),
    `sensitivity` VARCHAR(16) NOT NULL,
    `categories` TEXT NOT NULL,
    `elements` TEXT NOT NULL,
    `source_system` VARCHAR(128),
    `storage_location` VARCHAR(255),
    `input_fields` TEXT,
    `legal_basis` VARCHAR(64),
    `created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`id`),
    UNIQUE KEY `TOCSIN_PROVENANCE_RECORD_ID` (`record_id`),
    KEY `TOCSIN_PROVENANCE_CUSTOMER_ID` (`customer_id`),
    KEY `TOCSIN_PROVENANCE_ORDER_ID` (`order_id`),
    KEY `TOCSIN_PROVENANCE_DELETED_AT` (`deleted_at`),
    KEY `TOCSIN_PROVENANCE_MODEL_ID_MODEL_VERSION` (`model_id`, `model_version`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Values of the customer attributes that sum up what AI data is held; no trigger watches it.
CREATE TABLE `tocsin_customer_summary` (
    `value_id` INT NOT NULL AUTO_INCREMENT,
    `attribute_id` SMALLINT UNSIGNED NOT NULL DEFAULT 0,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `value` TEXT,
    PRIMARY KEY (`value_id`),
    UNIQUE KEY `TOCSIN_CUSTOMER_SUMMARY_ENTITY_ID_ATTRIBUTE_ID` (`entity_id`, `attribute_id`),
    KEY `TOCSIN_CUSTOMER_SUMMARY_ATTRIBUTE_ID` (`attribute_id`),
    CONSTRAINT `TOCSIN_CUSTOMER_SUMMARY_ENTITY_ID_CUSTOMER_ENTITY_ENTITY_ID` FOREIGN KEY (`entity_id`)
        REFERENCES `customer_entity` (`entity_id`) ON DELETE CASCADE,
    CONSTRAINT `TOCSIN_CUSTOMER_SUMMARY_ATTRIBUTE_ID_EAV_ATTRIBUTE_ATTRIBUTE_ID` FOREIGN KEY (`attribute_id`)
        REFERENCES `eav_attribute` (`attribute_id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- What the customer's account page shows. The bridge writes it; the page sets read_at, which comes back as a receipt.
-- No cascading key: a notice read just before its customer is deleted must still be reported as read.
CREATE TABLE `tocsin_account_notice` (
    `id` INT UNSIGNED NOT NULL AUTO_INCREMENT,
    `notice_id` VARCHAR(64) NOT NULL,
    `customer_id` INT UNSIGNED NOT NULL,
    `incident_id` VARCHAR(32) NOT NULL,
    `title` VARCHAR(255) NOT NULL,
    `body` MEDIUMTEXT NOT NULL,
    `locale` VARCHAR(16) NOT NULL,
    `created_at` DATETIME NOT NULL,
    `withdrawn_at` DATETIME,
    `read_at` DATETIME,
    PRIMARY KEY (`id`),
    UNIQUE KEY `TOCSIN_ACCOUNT_NOTICE_NOTICE_ID` (`notice_id`),
    KEY `TOCSIN_ACCOUNT_NOTICE_CUSTOMER_ID` (`customer_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- One row (id 1), kept up by the relay, so that the store's own pages can say when the relay was last alive.
CREATE TABLE `tocsin_heartbeat` (
    `id` SMALLINT UNSIGNED NOT NULL,
    `relay` VARCHAR(128) NOT NULL,
    `beat_at` DATETIME NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- As Setup/RecurringData.php adds it.
INSERT INTO `tocsin_heartbeat` (`id`, `relay`, `beat_at`) VALUES (1, '', '1970-01-01 00:00:00');

-- On a Galera cluster: which relay leads, until when (milliseconds since the epoch), and how often the lead changed hands.
CREATE TABLE `tocsin_relay_lease` (
    `id` SMALLINT UNSIGNED NOT NULL,
    `holder` VARCHAR(128) NOT NULL,
    `fencing_number` BIGINT UNSIGNED NOT NULL,
    `held_until_ms` BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Orders that stay published though no record says so, or says whose they are.
CREATE TABLE `tocsin_kept_order` (
    `order_id` INT UNSIGNED NOT NULL,
    `customer_id` INT UNSIGNED NULL,
    PRIMARY KEY (`order_id`),
    KEY `TOCSIN_KEPT_ORDER_CUSTOMER_ID` (`customer_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Changelogs, as Magento's mview makes one for each view (<view>_cl) ------------------------------------------------------
-- entity_id is what the view's subscription names in etc/mview.xml:
--   tocsin_customer_cl          customer_entity.entity_id
--   tocsin_customer_address_cl  customer_address_entity.parent_id: the CUSTOMER, who is still known once the address is gone
--   tocsin_customer_eav_cl      customer_entity_<type>.entity_id: the CUSTOMER
--   tocsin_order_cl             sales_order.entity_id and sales_order_address.parent_id: the order
--   tocsin_provenance_cl        tocsin_provenance.id, with record_id and root of the row (of the old one on DELETE)
--   tocsin_account_notice_cl    tocsin_account_notice.id
--   tocsin_heartbeat_cl         tocsin_heartbeat.id
-- changed_at is the module's (SubscribeViews): the triggers do not name it.
-- A NULL entity (an address without customer) arrives as 0, because the triggers say INSERT IGNORE: settle it unread.
CREATE TABLE `tocsin_customer_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `tocsin_customer_address_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `tocsin_customer_eav_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `tocsin_order_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `tocsin_provenance_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `record_id` VARCHAR(255),
    `root` VARCHAR(255),
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `tocsin_account_notice_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE `tocsin_heartbeat_cl` (
    `version_id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    `entity_id` INT UNSIGNED NOT NULL DEFAULT 0,
    `changed_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (`version_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
