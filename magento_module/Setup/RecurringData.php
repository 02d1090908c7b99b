<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup;

use Magento\Framework\Setup\InstallDataInterface;
use Magento\Framework\Setup\ModuleContextInterface;
use Magento\Framework\Setup\ModuleDataSetupInterface;

/**
 * Runs with every setup:upgrade: the heartbeat has its one row, as the relay's account may change it and add none. A data
 * patch would add it once only, and Magento drops the table when the module is disabled.
 */
class RecurringData implements InstallDataInterface
{
    /**
     * @inheritDoc
     */
    public function install(ModuleDataSetupInterface $setup, ModuleContextInterface $context)
    {
        $connection = $setup->getConnection();
        $table = $setup->getTable('tocsin_heartbeat');
        if (!$connection->fetchOne("SELECT id FROM $table WHERE id = 1")) {
            // No relay yet, and no beat since the epoch.
            $connection->insertMultiple($table, [['id' => 1, 'relay' => '', 'beat_at' => '1970-01-01 00:00:00']]);
        }
    }
}
