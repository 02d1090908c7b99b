<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup;

use Magento\Framework\Setup\InstallSchemaInterface;
use Magento\Framework\Setup\ModuleContextInterface;
use Magento\Framework\Setup\SchemaSetupInterface;
use Tocsin\BreachNotification\Model\Capture\SubscribeViews;

/**
 * Runs with every setup:upgrade, once all tables are there: capture is on, or is mended.
 */
class Recurring implements InstallSchemaInterface
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
    public function install(SchemaSetupInterface $setup, ModuleContextInterface $context)
    {
        $this->subscribeViews->execute();
    }
}
