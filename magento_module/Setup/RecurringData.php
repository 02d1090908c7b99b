<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup;

use Magento\Framework\DB\Adapter\AdapterInterface;
use Magento\Framework\Setup\InstallDataInterface;
use Magento\Framework\Setup\ModuleContextInterface;
use Magento\Framework\Setup\ModuleDataSetupInterface;
use Tocsin\BreachNotification\Model\Capture\SubscribeViews;

/**
 * Runs with every setup:upgrade after the data patches: triggers that leave out attributes by id learn the ids of those
 * that a patch has just made; and the heartbeat has its row, as the relay may update and not insert.
 */
class RecurringData implements InstallDataInterface
{
    /**
     * @param SubscribeViews $subscribeViews
     */
    public function __construct(private readonly SubscribeViews $subscribeViews)
    {
    }

    /**
     * @inheritDoc
     */
    public function install(ModuleDataSetupInterface $setup, ModuleContextInterface $context)
    {
        $this->subscribeViews->execute();
        $table = $setup->getTable('tocsin_heartbeat');
        if (!$setup->getConnection()->fetchOne($setup->getConnection()->select()->from($table, ['id']))) {
            $never = ['id' => 1, 'relay' => '', 'beat_at' => '1970-01-01 00:00:00'];
            $setup->getConnection()->insertArray($table, array_keys($never), [$never], AdapterInterface::INSERT_IGNORE);
        }
    }
}
